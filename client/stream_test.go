package client

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// A network that cuts WebTransport may bear WebSockets: it is left out, and does not count as a WebSocket that was cut.
func TestWebTransportThatIsCutIsLeftOut(t *testing.T) {
	e, p := wire.Endpoint{URL: "ws://127.0.0.1:1/v1/ws", WebTransport: "https://127.0.0.1:1/v1/webtransport"}, wire.Policy{WebTransport: true}
	for _, test := range []struct {
		name    string
		carries socket
		lasted  time.Duration
		cut     bool
		leftOut bool
	}{
		{"cut at once", new(streamSocket), time.Second, true, true},
		{"cut after it lasted", new(streamSocket), lasting, true, false},
		{"closed by the gateway", new(streamSocket), time.Second, false, false},
		{"a WebSocket", webSocket{}, time.Second, true, false},
		{"a long poll", new(pollSocket), time.Second, true, false},
	} {
		var s streams
		if !s.may(e, p) {
			t.Fatal("not tried at first")
		}
		if got := s.ended(test.carries, test.lasted, test.cut, lasting); got != test.leftOut || s.may(e, p) == test.leftOut {
			t.Errorf("%s: left out: %v, want %v; may be tried: %v", test.name, got, test.leftOut, s.may(e, p))
		}
	}
}
