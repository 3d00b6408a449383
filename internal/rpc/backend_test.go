package rpc

import (
	"context"
	"errors"
	"maps"
	"net"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/antipode-im/antipode/im"
)

// answering is an imserver whose answers a test sets.
type answering struct {
	giving
	got    im.Call
	origin im.Origin
	result im.CallResult
	err    error
}

func (a *answering) Call(_ context.Context, c im.Call) (im.CallResult, error) {
	a.got = c
	return a.result, a.err
}

func (a *answering) Positions(_ context.Context, o im.Origin) ([]im.Position, error) {
	a.origin = o
	return []im.Position{{Partition: im.Partition{Topic: "msg.eu.direct", Number: 3}, Next: 42, Local: 99, Log: im.UUID{7}}}, a.err
}

func (a *answering) Digest(context.Context) (map[string]string, error) {
	return map[string]string{"timelines": "ab", "lists": "cd"}, a.err
}

// wired serves a over memory and returns a connection to it.
func wired(t *testing.T, a *answering) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	RegisterBackend(server, a)
	RegisterView(server, a)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-ended
	})
	return conn
}

func TestBackendCarriesCallsAndAnswersWhole(t *testing.T) {
	a := &answering{result: im.CallResult{Body: []byte("answer"), Stamp: 1<<60 + 7, Join: []im.UID{"s:eu:a", "s:eu:b"}, All: true}}
	backend := NewBackend(wired(t, a))
	call := im.Call{
		Service: "im", Method: "submit", Key: "d:ann:bob", Body: []byte{0, 255}, UID: "ann", Device: "phone", Platform: "ios",
		Seen: 1<<60 + 3, MaxText: 1000,
	}
	result, err := backend.Call(t.Context(), call)
	if err != nil || !reflect.DeepEqual(result, a.result) || !reflect.DeepEqual(a.got, call) {
		t.Fatalf("%+v arrived as %+v; answer %+v, %v", call, a.got, result, err)
	}
	a.err = &im.Error{Code: im.CodeNotYetHere, Detail: "wait", RetryAfter: time.Second}
	if _, err := backend.Call(t.Context(), call); !reflect.DeepEqual(err, a.err) {
		t.Fatalf("%v came back as %v", a.err, err)
	}
	a.err = errors.New("secret")
	if _, err := backend.Call(t.Context(), call); im.CodeOf(err) != im.CodeInternal || err.Error() != "internal" {
		t.Fatalf("an error without a code came back as %v", err)
	}
}

func TestBackendThatIsGoneIsUnavailable(t *testing.T) {
	conn := wired(t, &answering{})
	conn.Close()
	if _, err := NewBackend(conn).Call(t.Context(), im.Call{}); im.CodeOf(err) != im.CodeUnavailable {
		t.Fatalf("got %v, want unavailable", err)
	}
}

func TestView(t *testing.T) {
	a := &answering{}
	view := NewView(wired(t, a))
	positions, err := view.Positions(t.Context(), "eu")
	want := []im.Position{{Partition: im.Partition{Topic: "msg.eu.direct", Number: 3}, Next: 42, Local: 99, Log: im.UUID{7}}}
	if err != nil || a.origin != "eu" || !reflect.DeepEqual(positions, want) {
		t.Fatalf("%v, %v", positions, err)
	}
	digest, err := view.Digest(t.Context())
	if err != nil || !maps.Equal(digest, map[string]string{"timelines": "ab", "lists": "cd"}) {
		t.Fatalf("%v, %v", digest, err)
	}
	a.err = errors.New("down")
	if _, err := view.Digest(t.Context()); err == nil {
		t.Fatal("no error came back")
	}
}
