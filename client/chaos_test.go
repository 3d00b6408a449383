package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Sockets cut at any moment, acks and pushes lost, pushes sent twice and out of order, regions that lag: in the end every
// submit is acked, every message was inserted once, and the timeline is what the logs say.
func TestChaos(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
		})
	}
}

func chaos(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	w.json = seed%2 == 1
	w.policy.FallbackPullMs = 30_000
	w.ipconf("ipconf")
	gateways := []*gateway{w.gateway("e1", "eu"), w.gateway("e2", "eu"), w.gateway("u1", "us")}
	var calm atomic.Bool
	for _, g := range gateways {
		own := rand.New(rand.NewPCG(seed, uint64(len(g.id)+int(g.id[0])+int(g.id[1]))))
		unlucky := func() error {
			g.mu.Lock()
			defer g.mu.Unlock()
			if calm.Load() {
				return nil
			}
			switch own.IntN(8) {
			case 0:
				return errCut
			case 1:
				return im.Errorf(im.CodeUnavailable, "by dice")
			}
			return nil
		}
		g.onSubmit = func(int, *peer, *wire.SubmitRequest) error { return unlucky() }
		g.onAcked = func(int, *peer) error {
			if err := unlucky(); err != nil {
				return errCut
			}
			return nil
		}
	}
	r := w.client(nil)
	defer r.end()
	var posted []*Submission
	conversations := []im.Conversation{direct, "d:ann:carl"}
	for step := range 150 {
		c := conversations[rng.IntN(2)]
		g := gateways[rng.IntN(3)]
		switch rng.IntN(8) {
		case 0, 1:
			s, err := r.Post(t.Context(), c, fmt.Sprint("mine ", step))
			if err != nil {
				t.Fatal(err)
			}
			posted = append(posted, s)
		case 2, 3, 4:
			rec := w.say(g.origin, c, "bob", fmt.Sprint("theirs ", step))
			for _, to := range gateways {
				for range rng.IntN(3) { // lost, once, twice
					to.push(rec, g.region)
				}
			}
		case 5:
			g.drop()
		case 6: // the other region's records stop, or start, arriving
			if rng.IntN(2) == 0 {
				w.mu.Lock()
				head := w.head(g.region, c)
				w.mu.Unlock()
				head = head.Merge(im.Cursor{g.origin: 1 << 30})
				w.holds(g.region, c, w.clamp(c, head))
			} else {
				w.holds(g.region, c, nil)
			}
		case 7: // an old push comes again
			if log := w.log(c, g.origin); len(log) > 0 {
				g.push(log[rng.IntN(len(log))], g.region)
			}
		}
		pass(time.Duration(rng.IntN(400)) * time.Millisecond)
	}
	calm.Store(true)
	for _, c := range conversations {
		w.holds("eu", c, nil)
		w.holds("us", c, nil)
	}
	for _, s := range posted {
		select {
		case <-s.Done():
		case <-time.After(time.Minute):
			t.Fatal("a submit has no outcome")
		}
		if _, err := s.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	r.Sync()
	for _, c := range conversations {
		want := w.shown(c)
		eventually(t, 2*time.Minute, fmt.Sprintf("%s converges to %d messages", c, len(want)), func() bool {
			return slices.Equal(placesOf(r.Messages(c)), placesOf(want))
		})
	}
	seen := map[im.ID]int{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if i, ok := e.(Inserted); ok {
			seen[i.Message.ID]++
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%v was inserted %d times", id, n)
		}
	}
	// Own texts stand in the order in which they were posted.
	for _, c := range conversations {
		last := -1
		for _, m := range r.Messages(c) {
			var step int
			if n, _ := fmt.Sscanf(m.Text, "mine %d", &step); n == 1 {
				if step < last {
					t.Errorf("%s: mine %d is after mine %d", c, step, last)
				}
				last = step
			}
		}
	}
}

func placesOf(messages []Message) []string {
	var list []string
	for _, m := range messages {
		list = append(list, m.Place.String()+" "+m.Text)
	}
	return list
}

// clamp returns a cursor whose entries are what the logs hold, at most.
func (w *world) clamp(c im.Conversation, cursor im.Cursor) im.Cursor {
	w.mu.Lock()
	defer w.mu.Unlock()
	limit := im.Cursor{}
	for o, log := range w.logs[c] {
		limit[o] = uint64(len(log))
	}
	cut := cursor.Cut(limit)
	if cut == nil {
		cut = im.Cursor{}
	}
	return cut
}

// shown is what everybody must see of a conversation: one message per id, at its lowest place.
func (w *world) shown(c im.Conversation) []Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	lowest := map[string]Message{}
	for _, log := range w.logs[c] {
		for _, r := range log {
			m := Message{Place: wire.RecordPlace(r), Text: r.GetText().GetText()}
			key := r.Sender + r.ClientId
			if known, ok := lowest[key]; !ok || m.Place.Before(known.Place) {
				lowest[key] = m
			}
		}
	}
	var all []Message
	for _, m := range lowest {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Message) int { return a.Place.Compare(b.Place) })
	return all
}
