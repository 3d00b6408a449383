package replicator

import (
	"context"
	"maps"
	"sync"

	"github.com/antipode-im/antipode/im"
)

// held tracks up to which offsets (exclusive) each peer holds the own log, as its receiver read them back from its
// copies. What a peer held it holds still when its link is closed.
type held struct {
	mu      sync.Mutex
	peers   map[im.Region]map[im.Partition]int64 // as it said last; what it never told is missing
	best    map[im.Partition]int64               // maximum over peers; it only grows
	open    map[im.Region]int                    // links open now
	changed chan struct{}                        // closed at the next change
}

func newHeld() *held {
	return &held{
		peers: map[im.Region]map[im.Partition]int64{}, best: map[im.Partition]int64{},
		open: map[im.Region]int{}, changed: make(chan struct{}),
	}
}

// asks notes from where on a peer takes the log now. Of partitions that it is refused this is all that is known, and no ack rests
// on it.
func (h *held) asks(peer im.Region, next map[im.Partition]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peers[peer] = next
}

// report raises what a peer holds.
func (h *held) report(peer im.Region, offsets map[im.Partition]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.peers[peer]
	if of == nil {
		of = map[im.Partition]int64{}
		h.peers[peer] = of
	}
	better := false
	for p, offset := range offsets {
		of[p] = max(of[p], offset)
		if offset > h.best[p] {
			h.best[p] = offset
			better = true
		}
	}
	if better {
		h.wake()
	}
}

// link counts a peer's open links up or down.
func (h *held) link(peer im.Region, by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[peer] += by
	if h.open[peer] <= 0 {
		delete(h.open, peer)
	}
	h.wake()
}

func (h *held) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// of returns what one peer holds.
func (h *held) of(peer im.Region) map[im.Partition]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.peers[peer])
}

// follow calls send with everything first, then with what changed.
func (h *held) follow(ctx context.Context, send func(im.Held) error) error {
	sent := map[im.Partition]int64{}
	peers := -1
	for {
		h.mu.Lock()
		changed := h.changed
		update := im.Held{Peers: len(h.open), Offsets: map[im.Partition]int64{}}
		for p, offset := range h.best {
			if offset > sent[p] {
				update.Offsets[p] = offset
				sent[p] = offset
			}
		}
		h.mu.Unlock()
		if len(update.Offsets) > 0 || update.Peers != peers {
			peers = update.Peers
			if err := send(update); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
