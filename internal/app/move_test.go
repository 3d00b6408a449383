package app

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/wire"
)

// mover is a client that is sent to another gateway, and what it was told.
type mover struct {
	*client.Client
	connected chan client.Connected
	messages  chan client.Message
}

func newMover(t *testing.T, d *Dev, uid im.UID, subprotocol string) *mover {
	t.Helper()
	token, _, err := d.Token(uid)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{
		UID: uid, Region: "eu", Token: client.StaticToken(token), IPConf: []string{d.IPConf("eu")}, Subprotocol: subprotocol,
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &mover{c, make(chan client.Connected, 100), make(chan client.Message, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range c.Events() {
			switch e := e.(type) {
			case client.Connected:
				m.connected <- e
			case client.Inserted:
				m.messages <- e.Message
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return m
}

// within waits for something that a client is told.
func within[T any](t *testing.T, what string, from chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(60 * time.Second):
		t.Fatal("not in 60 s: ", what)
		panic("unreachable")
	}
}

// asked counts what the gateways of a region were asked to pull and to list.
func asked(t *testing.T, d *Dev) (calls float64) {
	t.Helper()
	for gateway := range 2 {
		r, err := http.Get("http://" + d.ports.region(0, portAdmin+3+gateway) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		found := false
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			line := lines.Text()
			found = found || strings.HasPrefix(line, "antipode_gateway_conns")
			if strings.HasPrefix(line, "antipode_gateway_calls_total") && (strings.Contains(line, `method="pull"`) || strings.Contains(line, `method="list"`)) {
				n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
				if err != nil {
					t.Fatal(err)
				}
				calls += n
			}
		}
		if !found {
			t.Fatalf("gateway %d tells no metrics", gateway+1)
		}
	}
	return calls
}

// Clients whose gateway drains go on at the other one, with their sessions: each gets every message once, and asks for
// nothing, while somebody writes to all of them.
func TestClientsMoveWithTheirSessions(t *testing.T) {
	d, err := NewDev(DevConfig{
		Regions: []string{"eu"}, Listen: "127.0.0.1:0", Data: t.TempDir(), Progress: func(s string) { t.Log(s) },
		Configure: func(c *config.Config) {
			c.Gateway.MoveTimeout = 30 * time.Second // of a machine that is slow
			c.Drain = 2 * time.Second
			c.IPConf.Policy.FallbackPull = time.Hour
			c.IPConf.Policy.PushAck = time.Hour // so that all is unacknowledged at the move
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	submit := func(m *mover, c im.Conversation, text string) {
		t.Helper()
		if _, err := m.Submit(ctx, c, text); err != nil {
			t.Fatal(err)
		}
	}
	get := func(m *mover, text string) {
		t.Helper()
		if got := within(t, text, m.messages); got.Text != text {
			t.Fatalf("%s got %q, want %q", m.UID(), got.Text, text)
		}
	}

	const friends = 6
	ann := newMover(t, d, "ann", wire.SubprotocolProtobuf)
	from := within(t, "ann connects", ann.connected).Gateway
	var bobs [friends]*mover
	moving := map[*mover]bool{ann: true}
	for i := range bobs {
		bobs[i] = newMover(t, d, im.UID(fmt.Sprint("bob", i)), wire.Subprotocols()[i%2])
		moving[bobs[i]] = within(t, "bob connects", bobs[i].connected).Gateway == from
	}
	round := func(n int) { // one message to each, and one back
		t.Helper()
		for i, bob := range bobs {
			text := fmt.Sprintf("%d to %d", n, i)
			c := im.Direct("ann", bob.UID())
			submit(ann, c, text)
			get(ann, text)
			get(bob, text)
			submit(bob, c, "back "+text)
			get(bob, "back "+text)
			get(ann, "back "+text)
		}
	}
	for n := range 3 {
		round(n)
	}
	before := asked(t, d)
	gateways := d.regions[0].gateway
	gateways[from].Load().Drain()
	rounds := 3
	for len(moving) > 0 {
		round(rounds)
		rounds++
		for m, is := range moving {
			if !is {
				delete(moving, m)
				continue
			}
			select {
			case c := <-m.connected:
				if !c.Resumed || c.Gateway == from {
					t.Errorf("%s is at %s, resumed: %v", m.UID(), c.Gateway, c.Resumed)
				}
				delete(moving, m)
			default:
			}
		}
	}
	for n := range 3 {
		round(rounds + n)
	}
	if now := asked(t, d); now != before {
		t.Errorf("%v pulls and lists while they moved", now-before)
	}
	for _, m := range append(bobs[:], ann) {
		if len(m.connected) > 0 {
			t.Errorf("%s connected once more: %+v", m.UID(), <-m.connected)
		}
		if len(m.messages) > 0 {
			t.Errorf("%s got more: %+v", m.UID(), <-m.messages)
		}
	}
}
