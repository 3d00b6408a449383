package replicator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// peer is all that the replicator keeps about one other region.
type peer struct {
	Peer
	in       *receiving
	counts   *outCounts
	throttle *throttle
	ctx      context.Context // ends when the region is no peer any more, and with Run; nil before Run
	end      context.CancelCauseFunc
}

// errNoPeer ends the links of a region that is no peer any more.
var errNoPeer = errors.New("the region is no peer any more")

func (r *Replicator) newPeer(p Peer) *peer {
	t := &throttle{now: r.deps.Now}
	for _, c := range r.cfg.Caps {
		if c.Peer == p.Region {
			t.caps = append(t.caps, c)
		}
	}
	return &peer{Peer: p, in: newReceiving(r, p), counts: &outCounts{since: r.deps.Now()}, throttle: t}
}

// all are the peers of the moment. The slice does not change.
func (r *Replicator) all() []*peer { return *r.peers.Load() }

// peer returns what is kept of a region; nil if it is no peer.
func (r *Replicator) peer(region im.Region) *peer {
	for _, p := range r.all() {
		if p.Region == region {
			return p
		}
	}
	return nil
}

// Follow makes the peers those that are named. Links to others end, links to those that were peers before go on as they are;
// a peer that writes another origin than before is another. What is lacking of the logs that are sealed is taken from other
// regions' copies. It may be called at any time.
func (r *Replicator) Follow(peers []Peer, sealed []im.Origin) error {
	cfg := r.cfg
	cfg.Peers, cfg.Caps = peers, nil // a cap may name a region that is gone
	if err := cfg.check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.all()
	var now []*peer
	for _, p := range was {
		if slices.Contains(peers, p.Peer) {
			now = append(now, p)
			continue
		}
		r.log.Info("the region is no peer any more: its links end, its copies stay", "peer", string(p.Region), "origin", string(p.Origin))
		if p.end != nil {
			p.end(errNoPeer)
		}
		for at, links := range r.sendings {
			if at.peer == p.Region || at.origin == p.Origin { // what it takes, and what others take from the copies of its log
				for _, s := range links {
					s.cancel(fmt.Errorf("%s: %w", p.Region, errNoPeer))
				}
			}
		}
	}
	for _, p := range peers {
		if slices.ContainsFunc(now, func(has *peer) bool { return has.Peer == p }) {
			continue
		}
		fresh := r.newPeer(p)
		r.metrics.begin(p.Region)
		if r.ctx != nil && r.ctx.Err() == nil {
			r.log.Info("the region is a peer now", "peer", string(p.Region), "origin", string(p.Origin))
			r.start(fresh)
		}
		now = append(now, fresh)
	}
	r.peers.Store(&now)
	r.inherit(sealed)
	return nil
}

// start keeps the link from a peer open. The caller holds mu, and Run runs.
func (r *Replicator) start(p *peer) {
	p.ctx, p.end = context.WithCancelCause(r.ctx)
	r.receiving.Go(func() { p.in.run(p.ctx) })
}
