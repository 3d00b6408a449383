package rpc

import (
	"context"
	"testing"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

func TestBackendPool(t *testing.T) {
	const partitions = 8
	named := func(name string) *raw {
		return &raw{call: func(_ context.Context, r *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
			return &antipodev1.BackendCallResponse{Body: []byte(name + " " + r.Method)}, nil
		}}
	}
	addrA, stopA := serve(t, ServerConfig{}, named("a"))
	addrB, _ := serve(t, ServerConfig{}, named("b"))
	addrPoll, _ := serve(t, ServerConfig{}, named("poll"))
	a := im.Instance{Service: "imserver", ID: "a", Addr: addrA, Serves: []string{"im"}}
	b := im.Instance{Service: "imserver", ID: "b", Addr: addrB, Serves: []string{"im"}}
	poll := im.Instance{Service: "polls", ID: "p", Addr: addrPoll, Serves: []string{"poll"}}

	dialer := NewDialer(DialConfig{})
	defer dialer.Close()
	lists := make(chan []im.Instance)
	p := NewBackendPool(BackendPoolConfig{Region: "eu", Partitions: partitions}, BackendPoolDeps{
		Conns: dialer,
		Watch: func(ctx context.Context, fn func([]im.Instance)) error {
			for {
				select {
				case l := <-lists:
					fn(l)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
		Owner: func(partition int, live []im.Instance) (im.Instance, bool) { return live[partition%len(live)], true },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	tell := func(l ...im.Instance) { // the second is taken when the first was dealt with
		lists <- l
		lists <- l
	}
	call := func(c im.Call) (string, im.Code) {
		r, err := p.Call(t.Context(), c)
		return string(r.Body), im.CodeOf(err)
	}

	if _, code := call(im.Call{Service: "im"}); code != im.CodeUnavailable {
		t.Errorf("before discovery answered: %v", code)
	}
	tell(a, b, poll)
	for _, key := range []string{"d:ann:bob", "d:ann:carl", "g:eu:x", "d:bob:carl", "u:ann"} {
		want := []string{"a", "b"}[wire.Partition(key, partitions)%2] + " submit"
		if got, code := call(im.Call{Service: "im", Method: "submit", Key: key}); got != want || code != "" {
			t.Errorf("key %s: %q, %v; want %q", key, got, code, want)
		}
		if got, code := call(im.Call{Service: "im", Method: "submit", UID: im.UID(key)}); got != want || code != "" {
			t.Errorf("uid %s without a key: %q, %v; want %q", key, got, code, want)
		}
	}
	if got, code := call(im.Call{Service: "poll", Method: "vote"}); got != "poll vote" {
		t.Errorf("another service: %q, %v", got, code)
	}
	if _, code := call(im.Call{Service: "chess"}); code != im.CodeUnknownService {
		t.Errorf("a service that nobody registered: %v", code)
	}

	// The owner is gone: nobody else takes its calls until discovery says who owns the partition.
	stopA(im.ErrKilled)
	key := "d:ann:bob"
	for i := 0; wire.Partition(key, partitions)%2 != 0; i++ {
		key = "d:ann:bob" + string(rune('a'+i))
	}
	for range 10 { // by then it is left alone for a moment, and the next attempt to reach it waits
		if got, code := call(im.Call{Service: "im", Key: key}); code != im.CodeUnavailable {
			t.Errorf("with the owner away: %q, %v", got, code)
		}
	}
	tell(b)
	if got, code := call(im.Call{Service: "im", Method: "submit", Key: key}); got != "b submit" {
		t.Errorf("with a new owner: %q, %v", got, code)
	}
	if _, code := call(im.Call{Service: "poll"}); code != im.CodeUnavailable {
		t.Errorf("a service that is down: %v", code)
	}
	tell() // a catalogue without memory
	if got, code := call(im.Call{Service: "im", Method: "submit", Key: key}); got != "b submit" {
		t.Errorf("with an empty catalogue: %q, %v", got, code)
	}
	serve(t, ServerConfig{Addr: addrA}, named("a"))
	tell(a, b)
	if got, code := call(im.Call{Service: "im", Method: "submit", Key: key}); got != "a submit" {
		t.Errorf("with an owner that has come back to its address: %q, %v", got, code)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An owner that hangs is given up when discovery is: its callers need not wait for their deadlines.
func TestBackendPoolLeavesWhoHangs(t *testing.T) {
	called, release := make(chan struct{}), make(chan struct{})
	hangs := &raw{call: func(context.Context, *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		close(called)
		<-release
		return &antipodev1.BackendCallResponse{}, nil
	}}
	addr, _ := serve(t, ServerConfig{}, hangs)
	defer close(release)
	dialer := NewDialer(DialConfig{})
	defer dialer.Close()
	p := NewBackendPool(BackendPoolConfig{Partitions: 1}, BackendPoolDeps{
		Conns: dialer, Owner: func(_ int, live []im.Instance) (im.Instance, bool) { return live[0], true },
	})
	p.set([]im.Instance{{ID: "a", Addr: addr, Serves: []string{"im"}}})
	ended := make(chan error, 1)
	go func() {
		_, err := p.Call(t.Context(), im.Call{Service: "im", Key: "d:ann:bob"})
		ended <- err
	}()
	<-called
	p.set(nil) // a catalogue without memory gives nobody up
	p.set([]im.Instance{{ID: "a", Addr: addr, Serves: []string{"im"}}, {ID: "b", Addr: "127.0.0.1:1", Serves: []string{"im"}}})
	select {
	case err := <-ended:
		t.Fatalf("the call ended though its owner is listed: %v", err)
	default:
	}
	p.set([]im.Instance{{ID: "b", Addr: "127.0.0.1:1", Serves: []string{"im"}}})
	if err := <-ended; im.CodeOf(err) != im.CodeUnavailable {
		t.Fatal(err)
	}
}
