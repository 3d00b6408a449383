package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Clients that take nothing do not delay one that does: it gets each push in the time that it would have alone.
func TestSlowClientsDelayNobody(t *testing.T) {
	r := newRig(t, func(c *Config) { c.WriteTimeout = time.Minute; c.SlowTimeout = time.Minute })
	const deaf = 20
	var conns []uint64
	for i := range deaf {
		r.login(wire.SubprotocolProtobuf, im.UID(fmt.Sprint("deaf", i)), 1)
		conns = append(conns, r.routers.last().Conn)
	}
	p, _ := r.login(wire.SubprotocolProtobuf, "quick", 1)
	conns = append(conns, r.routers.last().Conn)
	body, err := wire.Marshal(&wire.Event{From: strings.Repeat("x", 40_000)})
	if err != nil {
		t.Fatal(err)
	}
	worst := time.Duration(0)
	blocked := 0
	for i := range uint64(400) {
		began := time.Now()
		r.routers.toGateway().Push([]im.Push{{Conns: conns, Service: "im", Method: "event", Body: body}})
		push := expect(p, (*wire.Frame).GetPush)
		if push.Number != i+1 {
			t.Fatalf("push %d after %d", push.Number, i)
		}
		worst = max(worst, time.Since(began))
		p.send(&wire.PushAck{Number: push.Number})
	}
	for _, c := range r.g.conns.all() {
		if c.blocked.Load() > 0 {
			blocked++
		}
	}
	if blocked < deaf {
		t.Errorf("%d of %d slow sockets are full: nothing was tested", blocked, deaf)
	}
	if worst > 2*time.Second {
		t.Errorf("a push took %v beside slow clients", worst)
	}
}

// Of receipts that wait for a client, only those remain that tell something.
func TestReceiptsAreCoalesced(t *testing.T) {
	cfg := Config{MaxUnacked: 100, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Second}
	s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
	receipt := func(uid, read string) *wire.PreparedPush {
		body, err := wire.Marshal(&wire.Event{From: "eu", Event: &wire.EventReceipt{Receipt: &wire.Receipt{Conversation: "d:ann:bob", Uid: uid, Read: read}}})
		if err != nil {
			t.Fatal(err)
		}
		return wire.PreparePush("im", "event", body, "")
	}
	c := &conn{flusher: newFlusher()}
	if err := s.attach(c, 1, 0); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.push(receipt("bob", "eu=1"), now, false)
	s.next(c, make([]numberedPush, 0, 1)) // the first was sent
	s.push(receipt("bob", "eu=2"), now, false)
	s.push(receipt("cat", "eu=2"), now, false)
	s.push(wire.PreparePush("im", "event", nil, ""), now, false)
	s.push(receipt("bob", "eu=3"), now, false)      // instead of eu=2
	s.push(receipt("bob", "us=1"), now, false)      // covers nothing
	s.push(receipt("bob", "eu=2,us=2"), now, false) // covers us=1 only
	var got []string
	for _, p := range s.unacked {
		_, _, body, _ := p.push.Parts()
		var e wire.Event
		if err := wire.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(p.number, e.GetReceipt().GetUid(), e.GetReceipt().GetRead()))
	}
	want := "[1bobeu=1 2bobeu=3 3cateu=2 4 5bobeu=2,us=2]"
	if fmt.Sprint(got) != want {
		t.Errorf("waiting are %v, want %v", got, want)
	}
	size := 0
	for _, p := range s.unacked {
		size += p.push.Size()
	}
	if s.bytes != size || s.number != 5 {
		t.Errorf("counts %d bytes up to %d, are %d", s.bytes, s.number, size)
	}
}
