package replicator

import (
	"context"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// deaf refuses links, as a peer does that does not listen yet.
type deaf struct{ asked chan struct{} }

func (d deaf) Link(context.Context, im.Region) (wire.LinkReceiver, error) {
	d.asked <- struct{}{}
	return nil, im.Errorf(im.CodeUnavailable, "nobody listens")
}

// Where both ends start at a time, the one that is first does not wait to dial again once its copies are read. It dials once more only.
func TestDialsAgainOnceCopiesAreRead(t *testing.T) {
	r, c := between(t)
	asked := make(chan struct{}, 8)
	r.deps.Dialer = deaf{asked}
	d := c.dialAhead(t.Context(), "eu")
	defer d.leave()
	<-d.done
	if n := len(asked); n != 1 {
		t.Fatalf("dialled %d times ahead", n)
	}
	if _, err := d.take(); im.CodeOf(err) != im.CodeUnavailable || len(asked) != 2 {
		t.Errorf("dialled %d times: %v", len(asked), err)
	}
}
