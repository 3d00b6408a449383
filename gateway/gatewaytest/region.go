// Package gatewaytest is what stands behind a gateway in tests of whole clients: a region that takes everything.
package gatewaytest

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Region takes every submit, has nothing to pull or list, and grants every claim: a gateway's Backend and Routers.
type Region struct {
	Origin im.Origin

	mu      sync.Mutex
	stamp   im.Stamp
	logins  []im.Claim
	handler gateway.Handler
}

// Call answers a client's call.
func (r *Region) Call(_ context.Context, c im.Call) (im.CallResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp++
	var m proto.Message
	switch c.Method {
	case wire.MethodSubmit:
		var q wire.SubmitRequest
		if err := wire.Unmarshal(c.Body, &q); err != nil {
			return im.CallResult{}, err
		}
		m = &wire.SubmitResponse{Conversation: c.Key, ClientId: q.ClientId, Stamp: uint64(r.stamp), Origin: string(r.Origin)}
	case wire.MethodPull:
		m = &wire.PullResponse{}
	case wire.MethodList:
		m = &wire.ListResponse{}
	case wire.MethodMark:
		m = &wire.MarkResponse{}
	default:
		return im.CallResult{}, im.Errorf(im.CodeUnknownMethod, "no method %q", c.Method)
	}
	body, err := wire.Marshal(m)
	return im.CallResult{Body: body, Stamp: r.stamp}, err
}

// Attach keeps the gateway until ctx ends.
func (r *Region) Attach(ctx context.Context, _ im.Gateway, h gateway.Handler) error {
	r.mu.Lock()
	r.handler = h
	r.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Claim grants all.
func (r *Region) Claim(_ context.Context, claims []im.Claim) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range claims {
		if !c.Release && !c.Offline {
			r.logins = append(r.logins, c)
		}
	}
	return make([]error, len(claims))
}

// Logins counts the claims of sockets so far.
func (r *Region) Logins() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.logins)
}

// Kick closes the conn that logged in last.
func (r *Region) Kick(code im.Code) {
	r.mu.Lock()
	last, h := r.logins[len(r.logins)-1], r.handler
	r.mu.Unlock()
	h.Kick(im.Kick{Conn: last.Conn, Login: last.Login, Code: code})
}
