package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
)

// TestKillDuringHandshake: a client that connected and went silent does not hold up the end.
func TestKillDuringHandshake(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.Identity("router", "eu")
	if err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{im.ErrKilled, context.Canceled} {
		s, err := NewServer(ServerConfig{Addr: "127.0.0.1:0", TLS: id.Server(), Drain: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for end := time.Now().Add(time.Minute); ; { // until the server has it
			s.listener.mu.Lock()
			n := len(s.listener.conns)
			s.listener.mu.Unlock()
			if n == 1 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the connection is not accepted")
			}
			time.Sleep(time.Millisecond)
		}
		cancel(cause)
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("Run does not end on %v while a handshake is under way", cause)
		}
	}
}
