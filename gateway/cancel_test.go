package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// slow is a backend whose pulls and submits take as long as their callers want them.
func (r *rig) slow() (begun, ended chan string) {
	begun, ended = make(chan string, 100), make(chan string, 100)
	r.backend.mu.Lock()
	defer r.backend.mu.Unlock()
	r.backend.handle = func(ctx context.Context, c im.Call) (im.CallResult, error) {
		if c.Key == "d:ann:quick" {
			return r.backend.answer(c)
		}
		begun <- c.Method
		t := time.NewTimer(time.Minute)
		defer t.Stop()
		select {
		case <-ctx.Done():
			ended <- c.Method
			return im.CallResult{}, context.Cause(ctx)
		case <-t.C:
			return im.CallResult{}, errors.New("nobody cancelled it")
		}
	}
	return begun, ended
}

// took waits for what is said on a channel.
func took(t *testing.T, from <-chan string, want string) {
	t.Helper()
	select {
	case got := <-from:
		if got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("no %s", want)
	}
}

// A call that the client takes back ends at the backend, is not answered, and makes room for another.
func TestCancel(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t, func(c *Config) { c.MaxCalls = 1 })
		begun, ended := r.slow()
		p, _ := r.login(subprotocol, "ann", 1)
		pull := func(id uint32, key string) *wire.Call {
			body, err := wire.Marshal(&wire.PullRequest{Conversation: key})
			if err != nil {
				t.Fatal(err)
			}
			return &wire.Call{Id: id, Service: "im", Method: "pull", Key: key, Body: body}
		}
		for id := uint32(1); id <= 5; id++ {
			p.send(pull(id, "d:ann:bob"))
			took(t, begun, "pull")
			p.send(&wire.Cancel{Id: id})
			took(t, ended, "pull")
			eventually(t, "its place is free", func() bool { return r.g.callsUnder.Load() == 0 })
		}
		p.send(&wire.Cancel{Id: 77}) // is nothing
		p.send(pull(6, "d:ann:quick"))
		if reply := expect(p, (*wire.Frame).GetReply); reply.Id != 6 || reply.Error != nil {
			t.Errorf("got %v", reply)
		}
		for _, c := range r.g.conns.all() {
			c.mu.Lock()
			if c.running != nil {
				t.Error("calls that are done are kept")
			}
			c.mu.Unlock()
		}

		// A submit may have happened: it goes on.
		p.send(submit(7, "d:ann:bob", "hi"))
		took(t, begun, "submit")
		p.send(&wire.Cancel{Id: 7})
		p.expectAlive()
		if len(ended) > 0 {
			t.Error("a submit was cancelled")
		}
	})
}

// A call that is taken back costs nothing of the connection's rate, up to a quarter of it.
func TestCancelGivesBack(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		const burst = 8
		r := newRig(t, func(c *Config) { c.Rate, c.Burst = 0.001, burst })
		begun, ended := r.slow()
		p, _ := r.login(subprotocol, "ann", 1)
		id := uint32(0)
		pull := func(key string) {
			body, err := wire.Marshal(&wire.PullRequest{Conversation: key})
			if err != nil {
				t.Fatal(err)
			}
			id++
			p.send(&wire.Call{Id: id, Service: "im", Method: "pull", Key: key, Body: body})
		}
		const taken = 4
		for range taken {
			pull("d:ann:bob")
			took(t, begun, "pull")
			p.send(&wire.Cancel{Id: id})
			took(t, ended, "pull")
		}
		for n := range burst - taken + burst/4 + 1 {
			pull("d:ann:quick")
			reply := expect(p, (*wire.Frame).GetReply)
			if refused := reply.Error != nil; refused != (n == burst-taken+burst/4) {
				t.Fatalf("call %d behind %d that were taken back: %v", n, taken, reply.Error)
			}
		}
	})
}

// A call over HTTP ends with its request, and costs nothing of the user's rate.
func TestCancelOverHTTP(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate, c.Burst = 0.001, 2 })
	begun, ended := r.slow()
	body, err := wire.Marshal(&wire.PullRequest{Conversation: "d:ann:bob"})
	if err != nil {
		t.Fatal(err)
	}
	quick, err := wire.Marshal(&wire.PullRequest{Conversation: "d:ann:quick"})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	post := func(ctx context.Context, body []byte) (int, error) {
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.g.URL()+"/v1/pull", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+r.token("ann"))
		q.Header.Set("Content-Type", mediaProtobuf)
		a, err := (&http.Client{Transport: transport}).Do(q)
		if err != nil {
			return 0, err
		}
		a.Body.Close()
		return a.StatusCode, nil
	}
	for range 6 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := post(ctx, body)
			done <- err
		}()
		took(t, begun, "pull")
		cancel()
		took(t, ended, "pull")
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the request ended with %v", err)
		}
		eventually(t, "it is over", func() bool { return len(r.g.httpCalls) == 0 })
	}
	for range 2 {
		if status, err := post(t.Context(), quick); status != http.StatusOK || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
	}
	if status, err := post(t.Context(), quick); status != http.StatusTooManyRequests || err != nil {
		t.Errorf("above the rate: status %d, %v", status, err)
	}
}
