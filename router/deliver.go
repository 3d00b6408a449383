package router

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// Deliver pushes to the sockets that the recipients have in this region, and, for deliveries with Notify, tells the
// regions where they have others. A session without a socket gets the push too, into what its gateway keeps for a resume.
// An ephemeral one goes to sockets only.
// It returns the number of sockets whose gateway's queue took the push, which sessions without one are not counted in; that
// is no proof of delivery, and a gateway that is slow or away costs its own pushes only. A router that is not ready answers
// CodeUnready and has pushed nothing: ask another, or later.
func (r *Router) Deliver(_ context.Context, deliveries []im.Delivery) (pushes int, err error) {
	return r.deliver(deliveries, true)
}

// Interest tells whether every attached gateway looks who is in a large group before it hands on what comes for it. While one
// does not, its sessions get nothing of what is delivered to interest.
func (r *Router) Interest() bool { return r.hub.interest() }

// Notify takes deliveries that came over a link, for sockets in this region only.
func (r *Router) Notify(_ context.Context, from im.Region, deliveries []im.Delivery) error {
	r.meter.notified(from, len(deliveries))
	for i := range deliveries {
		// What changes in a group is known here once this region's own log says so. Told before, gateways would wait for it
		// with everything else of the group.
		if in := deliveries[i].Interest; in != nil {
			deliveries[i].Interest = &im.Interest{Place: in.Place, Changes: in.Changes}
		}
	}
	_, err := r.deliver(deliveries, false)
	return err
}

// maxTogether bounds the recipients that are looked up at once, where one delivery has no more.
const maxTogether = 1024

func (r *Router) deliver(deliveries []im.Delivery, tell bool) (pushes int, err error) {
	if err := r.Ready(); err != nil {
		return 0, err
	}
	var (
		now      = im.StampAt(time.Now())
		batches  = make(map[im.Gateway]*batch)
		conns    = make(map[im.Gateway][]uint64) // of the delivery in hand
		found    routes.Found
		uids     []im.UID // looked up together
		next     int      // of them
		until    int      // the delivery before which they end
		outgoing map[im.Region][]im.Delivery
		spans    []trace.Span
	)
	for i := range deliveries {
		d := &deliveries[i]
		if i == until {
			uids, next = uids[:0], 0
			for ; until < len(deliveries) && (until == i || len(uids)+len(deliveries[until].Recipients) <= maxTogether); until++ {
				uids = append(uids, deliveries[until].Recipients...)
			}
			r.table.TargetsOf(&found, uids, now)
		}
		carry := d.Trace
		if sampled(d.Trace) {
			var span trace.Span
			span, carry = r.meter.span(d.Trace, "deliver", attribute.String("conversation", d.Key),
				attribute.Int("recipients", len(d.Recipients)))
			spans = append(spans, span)
		}
		var abroad map[im.Region][]im.UID
		for _, uid := range d.Recipients {
			targets := found.Of(next)
			next++
			for j := range targets {
				route := &targets[j]
				switch {
				case d.Ephemeral && route.Offline:
				case route.Region == r.cfg.Region:
					b := batches[route.Gateway]
					if b == nil {
						b = new(batch)
						batches[route.Gateway] = b
					}
					if !route.Offline { // a session without a socket is never "delivered"
						b.sockets++
					}
					conns[route.Gateway] = append(conns[route.Gateway], route.Conn)
				case route.Offline: // its region's log brings it in time for a resume
				case tell && d.Notify:
					if abroad == nil {
						abroad = make(map[im.Region][]im.UID)
					}
					if to := abroad[route.Region]; len(to) == 0 || to[len(to)-1] != uid {
						abroad[route.Region] = append(to, uid)
					}
				}
			}
		}
		for gw, to := range conns {
			batches[gw].pushes = append(batches[gw].pushes, im.Push{
				Conns: slices.Clone(to), Service: d.Service, Method: d.Method, Body: d.Body, Trace: carry, Ephemeral: d.Ephemeral,
				Interest: d.Interest, Join: d.Join,
			})
			delete(conns, gw)
		}
		for region, uids := range abroad {
			if outgoing == nil {
				outgoing = make(map[im.Region][]im.Delivery)
			}
			out := *d
			out.Recipients, out.Notify = uids, false
			if sampled(carry) {
				span, traceparent := r.meter.span(carry, "notify", attribute.String("peer", string(region)))
				out.Trace = traceparent
				spans = append(spans, span)
			}
			outgoing[region] = append(outgoing[region], out)
		}
	}
	for gw, b := range batches {
		pushes += r.push(gw, b)
	}
	for region, out := range outgoing {
		if n := r.following.notifier(region); n != nil {
			n.offer(out)
		}
	}
	for _, s := range spans {
		s.End()
	}
	return pushes, nil
}

// batch is what goes to one gateway at once.
type batch struct {
	pushes  []im.Push
	sockets int // of all pushes; sessions without a socket do not count
}

// push hands a batch to a gateway's queue and returns the number of sockets it is for, 0 if it was lost.
func (r *Router) push(gw im.Gateway, b *batch) int {
	a := r.hub.of(gw)
	if a == nil {
		r.meter.lost("unattached", b.sockets)
		return 0
	}
	if err := a.out.Push(b.pushes); err != nil {
		r.meter.lost("refused", b.sockets)
		return 0
	}
	r.meter.pushed(b.sockets)
	return b.sockets
}

// notifier hands deliveries for one peer region to the own replicator, in order, off the delivery path. What does not
// fit its queue is dropped: notifies may be lost, and ephemeral ones are as soon as the queue is half full.
type notifier struct {
	router *Router
	to     im.Region
	queue  chan im.Delivery
}

// maxNotify bounds the deliveries of one call to the replicator.
const maxNotify = 256

func newNotifier(r *Router, to im.Region) *notifier {
	return &notifier{router: r, to: to, queue: make(chan im.Delivery, r.cfg.NotifyQueue)}
}

func (n *notifier) offer(deliveries []im.Delivery) {
	for i := range deliveries {
		if deliveries[i].Ephemeral && len(n.queue) >= cap(n.queue)/2 {
			n.router.meter.notifyDropped(n.to, 1)
			continue
		}
		select {
		case n.queue <- deliveries[i]:
		default:
			n.router.meter.notifyDropped(n.to, len(deliveries)-i)
			return
		}
	}
}

func (n *notifier) run(ctx context.Context) {
	r := n.router
	for {
		batch := make([]im.Delivery, 0, 16)
		select {
		case <-ctx.Done():
			return
		case d := <-n.queue:
			batch = append(batch, d)
		}
	more:
		for len(batch) < maxNotify {
			select {
			case d := <-n.queue:
				batch = append(batch, d)
			default:
				break more
			}
		}
		bounded, cancel := context.WithTimeout(ctx, r.cfg.NotifyTimeout)
		err := r.deps.Peers.Notify(bounded, n.to, batch)
		cancel()
		if err != nil {
			r.meter.notifyDropped(n.to, len(batch))
			r.log.Debug("notifies were lost", "to", string(n.to), "deliveries", len(batch), "error", err)
			continue
		}
		r.meter.notify(n.to, len(batch))
	}
}
