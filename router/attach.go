package router

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Outbox is a gateway's stream, at the router's end. Its methods never block: an error says that the stream is gone or
// its queue full.
type Outbox interface {
	Push([]im.Push) error
	Kick(im.Kick) error
	Fenced(epoch uint64) error
}

// Attachment is one attached gateway.
type Attachment struct {
	router  *Router
	gateway im.Gateway
	out     Outbox

	interest bool // it looks who is in a large group; hub.mu
}

// hub knows the gateways: those attached, and the lives that must be watched.
type hub struct {
	mu       sync.Mutex
	attached map[im.Gateway]*Attachment
	lives    map[im.Gateway]*lifeState
}

// lifeState is what is known of one life of a gateway.
type lifeState struct {
	heard    time.Time         // the last heartbeat; of one that never attached, when it was noticed
	attached bool              // ever
	written  map[int]time.Time // when gateway_down was appended, by partition number
}

func newHub() *hub {
	return &hub{attached: make(map[im.Gateway]*Attachment), lives: make(map[im.Gateway]*lifeState)}
}

// of returns the attachment of a gateway's life, nil for none.
func (h *hub) of(gw im.Gateway) *Attachment {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.attached[gw]
}

// interest tells whether every attached gateway looks who is in a large group.
func (h *hub) interest() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.attached {
		if !a.interest {
			return false
		}
	}
	return true
}

func (h *hub) hear(gw im.Gateway, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.lives[gw]
	if !ok {
		l = &lifeState{}
		h.lives[gw] = l
	}
	l.heard, l.attached = now, true
}

// fence takes away the attachments of a gateway's life and earlier ones.
func (h *hub) fence(gw im.Gateway) []*Attachment {
	h.mu.Lock()
	defer h.mu.Unlock()
	var gone []*Attachment
	for life, a := range h.attached {
		if life.ID == gw.ID && life.Epoch <= gw.Epoch {
			gone = append(gone, a)
			delete(h.attached, life)
		}
	}
	return gone
}

// Attach takes a gateway's stream. A gateway whose epoch was declared down is told so through out.Fenced and refused
// with CodeGatewayFenced: it takes a new epoch and claims again.
func (r *Router) Attach(gw im.Gateway, out Outbox) (*Attachment, error) {
	if gw.ID == "" || gw.Epoch == 0 {
		return nil, im.Errorf(im.CodeBadRequest, "a gateway attaches with an id and an epoch from 1, not %+v", gw)
	}
	if r.table.FencedAnywhere(gw, im.StampAt(time.Now())) {
		return nil, r.fenced(gw, out)
	}
	a := &Attachment{router: r, gateway: gw, out: out}
	r.hub.hear(gw, time.Now())
	r.hub.mu.Lock()
	r.hub.attached[gw] = a // a stream that it had before is dead, whether we know or not
	r.hub.mu.Unlock()
	if r.table.FencedAnywhere(gw, im.StampAt(time.Now())) { // applied between the look and the entry
		a.Close()
		return nil, r.fenced(gw, out)
	}
	return a, nil
}

func (r *Router) fenced(gw im.Gateway, out Outbox) error {
	if err := out.Fenced(gw.Epoch); err != nil {
		r.log.Warn("a fenced gateway could not be told", "gateway", gw.ID, "epoch", gw.Epoch, "error", err)
	}
	return errFenced(gw)
}

func errFenced(gw im.Gateway) error {
	return im.Errorf(im.CodeGatewayFenced, "epoch %d of gateway %s was declared down: take a new one", gw.Epoch, gw.ID)
}

// Claim appends claims and releases, and returns, per claim, when it is in the log and in this router's view. An error of
// CodeUnavailable or CodeOverloaded may be tried again: claims are idempotent.
func (a *Attachment) Claim(ctx context.Context, claims []im.Claim) []error {
	type answer struct {
		i   int
		err error
	}
	answers := make(chan answer, len(claims))
	a.Submit(claims, func(i int, err error) { answers <- answer{i, err} })
	errs := make([]error, len(claims))
	for i := range errs {
		errs[i] = im.Errorf(im.CodeUnavailable, "the claim was not answered in time")
	}
	for range claims {
		select {
		case got := <-answers:
			errs[got.i] = got.err
		case <-ctx.Done():
			return errs
		}
	}
	return errs
}

// Submit queues claims and returns; calls that begin after another returned are after it in the log. done is called
// exactly once per claim, maybe before Submit returns, maybe from another goroutine, and must not block.
func (a *Attachment) Submit(claims []im.Claim, done func(i int, err error)) {
	for i, c := range claims {
		switch {
		case c.UID == "" || c.Device == "":
			done(i, im.Errorf(im.CodeBadRequest, "a claim needs a uid and a device"))
		default:
			p := a.router.appenders[a.router.table.Number(c.UID)]
			p.add(pending{gateway: a.gateway, claim: c, done: func(err error) { done(i, err) }})
		}
	}
}

// Heartbeat keeps the gateway's epoch alive.
func (a *Attachment) Heartbeat() { a.router.hub.hear(a.gateway, time.Now()) }

// Interest tells that the gateway looks who is in a large group before it hands on what comes for it. Those of before did not.
func (a *Attachment) Interest() {
	a.router.hub.mu.Lock()
	defer a.router.hub.mu.Unlock()
	a.interest = true
}

// Close tells that the stream is gone. The gateway's routes stay until its heartbeats have been missing for long enough.
func (a *Attachment) Close() {
	h := a.router.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached[a.gateway] == a {
		delete(h.attached, a.gateway)
	}
}
