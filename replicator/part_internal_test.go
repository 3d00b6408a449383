package replicator

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// Of a partition one append is under way at a time, whoever made it: what comes meanwhile waits, also where the copy was read back faster
// than an append was answered. Nothing is started that the partition is to start over from.
func TestOneAppendAtATime(t *testing.T) {
	for _, c := range []struct {
		name string
		is   func(p *part)
		may  bool
		wake bool
	}{
		{"nothing is under way", func(*part) {}, true, false},
		{"its appender is at work", func(p *part) { p.busy = true }, false, false},
		{"an append that was started is under way", func(p *part) { p.flying = true }, false, false},
		{"it is to start over", func(p *part) { p.reset = true }, false, true},
		{"one failed", func(p *part) { p.failed = &failure{} }, false, true},
		{"what is next came in another form", func(p *part) { p.queue = []received{{first: 2, count: 1, entries: make([]im.Entry, 1)}}; p.expect = 3 }, false, true},
	} {
		p := &part{c: &receiving{r: &Replicator{}}, running: true, expect: 2, next: 0, follower: im.Follower{Next: 2}, ready: make(chan struct{}, 1)}
		c.is(p)
		first, queued := p.expect, len(p.queue)
		w, may, credit := p.offer(received{first: first, count: 1, packed: &im.Packed{First: first, Count: 1}, bytes: 5})
		if may != c.may || credit != 0 || len(p.ready) > 0 != c.wake {
			t.Errorf("%s: started %v, woken %v, %d bytes are given back", c.name, may, len(p.ready) > 0, credit)
		}
		if left := len(p.queue); may && (w.first != first || left != queued || !p.flying || !p.appending) || !may && left != queued+1 {
			t.Errorf("%s: %d wait, started is %+v", c.name, left, w)
		}
	}
}

// What a look has taken from the queue is given back to the window, also where it ends at a batch that cannot be read.
func TestUnreadableGivesBack(t *testing.T) {
	r := &Replicator{log: slog.New(slog.DiscardHandler)}
	r.deps.Packing = unreadable{}
	p := &part{c: &receiving{r: r}, running: true, next: 2, queue: []received{
		{first: 0, count: 1, entries: make([]im.Entry, 1), bytes: 10}, // came before
		{first: 1, count: 2, packed: &im.Packed{First: 1, Count: 2}, bytes: 20},
	}}
	w, _, reset := p.pick()
	if left := p.drop(); !reset || w.bytes != 10 || left != 20 {
		t.Errorf("starts over %v, %d bytes are given back at once and %d of what waits", reset, w.bytes, left)
	}
}

// unreadable is a Packing whose batches are damaged.
type unreadable struct{ Packing }

func (unreadable) Unpack(*im.Packed) ([]im.Entry, error) { return nil, errors.New("damaged") }
