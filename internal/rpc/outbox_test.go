package rpc

import (
	"testing"

	"github.com/antipode-im/antipode/im"
)

// TestOutboxBounds: a gateway that takes nothing is refused further pushes at once; kicks and answers still queue.
func TestOutboxBounds(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		o := newOutbox()
		var err error
		pushed := 0
		for err == nil && pushed <= maxOutboxPushes {
			err = o.Push([]im.Push{{Conns: []uint64{1}, Body: make([]byte, size)}})
			pushed++
		}
		if im.CodeOf(err) != im.CodeOverloaded || o.bytes > maxOutboxBytes || o.pushes > maxOutboxPushes {
			t.Fatalf("after %d pushes of %d bytes: %v; %d pushes, %d bytes wait", pushed, size, err, o.pushes, o.bytes)
		}
		if err := o.Kick(im.Kick{Conn: 1}); err != nil {
			t.Fatal(err)
		}
		if err := o.Fenced(1); err != nil {
			t.Fatal(err)
		}
		if err := o.Kick(im.Kick{Conn: 1}); err == nil {
			t.Fatal("something was queued behind fenced")
		}
	}
	// One batch larger than a message may be is cut.
	o := newOutbox()
	if err := o.Push([]im.Push{{Body: make([]byte, maxPushBytes)}, {Body: make([]byte, 10)}, {Body: make([]byte, 10)}}); err != nil {
		t.Fatal(err)
	}
	if len(o.queue) != 2 {
		t.Fatalf("%d messages, want 2", len(o.queue))
	}
}
