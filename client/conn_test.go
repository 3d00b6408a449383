package client

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// Pushes are acknowledged within the policy's time and by the dozen, and not by everybody at one time.
func TestAcksAreSpread(t *testing.T) {
	p := wire.Policy{PushAckMs: 200}
	for _, step := range []struct {
		r      float64
		many   uint64
		within time.Duration
	}{
		{0, ackEvery / 2, 100 * time.Millisecond},
		{0.5, ackEvery * 3 / 4, 150 * time.Millisecond},
		{1, ackEvery, 200 * time.Millisecond},
	} {
		if many, within := nextAck(p, step.r); many != step.many || within != step.within {
			t.Errorf("at %v: after %d pushes or %v, want %d or %v", step.r, many, within, step.many, step.within)
		}
	}
}
