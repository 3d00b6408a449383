package client

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// client returns a client of ann's, whose events are collected.
func (w *world) client(change func(*Config)) *rig {
	w.t.Helper()
	cfg := Config{IPConf: w.ipconfs, Token: StaticToken("token-ann"), Store: w.store, Dial: w.net.dial}
	if w.json {
		cfg.Subprotocol = wire.SubprotocolJSON
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &rig{Client: c, w: w, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for e := range c.Events() {
			r.mu.Lock()
			r.events = append(r.events, e)
			r.mu.Unlock()
		}
	}()
	return r
}

// rig is a client under test.
type rig struct {
	*Client
	w    *world
	done chan struct{}

	mu     sync.Mutex
	events []Event
}

// end closes everything and waits: a goroutine that is left deadlocks the bubble, which fails the test.
func (r *rig) end() {
	r.Close()
	<-r.done
	r.w.end()
}

func (w *world) end() {
	for _, s := range w.servers {
		s.Close()
	}
	for _, g := range w.all() {
		g.drop()
	}
	w.wg.Wait()
}

func (r *rig) took(e Event) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, got := range r.events {
		if fmt.Sprintf("%T", got) == fmt.Sprintf("%T", e) {
			n++
		}
	}
	return n
}

// inserted lists the texts in the order of their events.
func (r *rig) inserted() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, e := range r.events {
		if i, ok := e.(Inserted); ok {
			list = append(list, i.Message.Text)
		}
	}
	return list
}

func (r *rig) last() Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == 0 {
		return nil
	}
	return r.events[len(r.events)-1]
}

func textsOf(messages []Message) []string {
	var list []string
	for _, m := range messages {
		list = append(list, m.Text)
	}
	return list
}

// eventually waits, on the fake clock, until fn holds; within bounds how much of it may pass.
func eventually(t *testing.T, within time.Duration, what string, fn func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		synctest.Wait()
		if fn() {
			return time.Since(start)
		}
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		pass(time.Millisecond)
	}
}

// pass lets time go by on the fake clock that every test with a world runs on (scenario, chaos): it takes none.
func pass(d time.Duration) { time.Sleep(d) }
