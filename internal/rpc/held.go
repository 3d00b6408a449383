package rpc

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// Held knows up to which offsets at least one peer holds the own origin's log: an imserver's end of the replicator's
// stream of that name.
type Held struct {
	client antipodev1.ReplicatorClient

	mu      sync.Mutex
	peers   int
	offsets map[im.Partition]int64 // exclusive; each only grows
	waiting map[im.Partition][]waiter
}

type waiter struct {
	offset int64
	held   chan struct{} // closed when it is
}

// NewHeld returns a Held that knows nothing before Run.
func NewHeld(conn grpc.ClientConnInterface) *Held {
	return &Held{
		client:  antipodev1.NewReplicatorClient(conn),
		offsets: map[im.Partition]int64{}, waiting: map[im.Partition][]waiter{},
	}
}

// Run follows the replicator until ctx ends, through its restarts. While it cannot be reached, there are no peers.
func (h *Held) Run(ctx context.Context) error {
	wait := &backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: time.Second,
	}
	for ctx.Err() == nil {
		h.follow(ctx, wait.Reset)
		h.mu.Lock()
		h.peers = 0
		h.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
	return nil
}

// follow returns when the stream ends, for whatever reason: the answer to all of them is to open it again.
func (h *Held) follow(ctx context.Context, heard func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := h.client.Held(ctx, &antipodev1.HeldRequest{})
	if err != nil {
		return
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		heard()
		h.update(m)
	}
}

func (h *Held) update(m *antipodev1.HeldResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peers = int(m.Peers)
	for _, v := range m.Held {
		p := im.Partition{Topic: v.Topic, Number: int(v.Partition)}
		if v.Next <= h.offsets[p] {
			continue
		}
		h.offsets[p] = v.Next
		left := h.waiting[p][:0]
		for _, w := range h.waiting[p] {
			if w.offset < v.Next {
				close(w.held)
			} else {
				left = append(left, w)
			}
		}
		clear(h.waiting[p][len(left):])
		h.waiting[p] = left
	}
}

// Peers is how many peers have their link open now, 0 while the replicator cannot be reached.
func (h *Held) Peers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peers
}

// Wait returns nil once at least one peer holds the record at offset of the own log, or the cause of ctx's end.
func (h *Held) Wait(ctx context.Context, p im.Partition, offset int64) error {
	h.mu.Lock()
	if offset < h.offsets[p] {
		h.mu.Unlock()
		return nil
	}
	w := waiter{offset, make(chan struct{})}
	h.waiting[p] = append(h.waiting[p], w)
	h.mu.Unlock()
	select {
	case <-w.held:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[p] = slices.DeleteFunc(h.waiting[p], func(v waiter) bool { return v.held == w.held })
	select {
	case <-w.held: // at the last moment
		return nil
	default:
		return context.Cause(ctx)
	}
}
