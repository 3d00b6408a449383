// Package quic runs the Go client against a real gateway by WebTransport, over networks that change and that let nothing
// through.
package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/gatewaytest"
	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/wire"
)

const patience = 40 * time.Second

// rig is a gateway, and a client of it.
type rig struct {
	*client.Client
	t      *testing.T
	region *gatewaytest.Region
	events chan client.Event
}

// newRig starts both. way leads to the gateway's UDP address; nil: straight there.
func newRig(t *testing.T, way func(addr string) string) *rig {
	t.Helper()
	authority, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	identity, err := authority.Identity("gateway", "eu")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := issue.New("k1", nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.NewVerifier(auth.Config{Keys: []auth.Key{issuer.Key()}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, region: &gatewaytest.Region{Origin: "eu"}, events: make(chan client.Event, 1000)}
	g, err := gateway.New(gateway.Config{
		Gateway: im.Gateway{ID: "g1", Epoch: 7}, Region: "eu", Origin: "eu", Listen: "127.0.0.1:0", QUIC: "127.0.0.1:0",
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &identity.Certificate, nil },
	}, gateway.Deps{
		Backend: r.region, Routers: r.region, Tokens: tokens, NextEpoch: func(context.Context) (uint64, error) { return 8, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel(im.ErrKilled)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	token, err := issuer.Token("ann", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	e := wire.EndpointOf(im.Instance{ID: "g1", Region: "eu", URL: g.URL(), WebTransport: g.WebTransportURL()})
	if way != nil {
		addr := strings.TrimSuffix(strings.TrimPrefix(e.WebTransport, "https://"), "/v1/ws")
		e.WebTransport = "https://" + way(addr) + "/v1/ws"
	}
	policy := wire.DefaultPolicy()
	policy.WebTransport, policy.RaceStaggerMs, policy.ConnectTimeoutMs = true, 5_000, 20_000 // a busy machine is no slow network
	policy.HeartbeatMaxMs = 1000
	r.Client, err = client.New(client.Config{
		Endpoints: []wire.Endpoint{e}, Policy: policy, Token: client.StaticToken(token), TLS: &tls.Config{RootCAs: identity.Roots},
	})
	if err != nil {
		t.Fatal(err)
	}
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for e := range r.Events() {
			r.events <- e
		}
	}()
	t.Cleanup(func() {
		r.Close()
		<-forwarded
	})
	return r
}

// connected waits for the next login and returns its URL.
func (r *rig) connected() client.Connected {
	r.t.Helper()
	end := time.After(patience)
	for {
		select {
		case e := <-r.events:
			if c, ok := e.(client.Connected); ok {
				return c
			}
		case <-end:
			r.t.Fatal("the client does not connect")
		}
	}
}

func (r *rig) submit(text string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if _, err := r.Submit(ctx, "d:ann:bob", text); err != nil {
		r.t.Fatal(err)
	}
}

// The client takes the stream that policy and gateway offer, and hears the close code on it.
func TestClientByWebTransport(t *testing.T) {
	r := newRig(t, nil)
	if c := r.connected(); !strings.HasPrefix(c.URL, "https://") {
		t.Fatalf("connected by %s", c.URL)
	}
	r.submit("hello")
	r.region.Kick(im.CodeReplaced)
	end := time.After(patience)
	for {
		select {
		case e := <-r.events:
			if s, ok := e.(client.Stopped); ok {
				if im.CodeOf(s.Err) != im.CodeReplaced {
					t.Fatalf("stopped with %v", s.Err)
				}
				return
			}
		case <-end:
			t.Fatal("the client did not hear that it was replaced")
		}
	}
}

// Where no UDP comes through, the client has a WebSocket, soon after, and does not try again at once.
func TestClientWithoutUDP(t *testing.T) {
	hole, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) // takes everything, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	r := newRig(t, func(string) string { return hole.LocalAddr().String() })
	if c := r.connected(); !strings.HasPrefix(c.URL, "wss://") {
		t.Fatalf("connected by %s", c.URL)
	}
	r.submit("hello")
	b := make([]byte, 2048)
	hole.SetReadDeadline(time.Now().Add(patience))
	if _, err := hole.Read(b); err != nil {
		t.Fatal("no WebTransport was tried: ", err)
	}
}

// relay passes datagrams on. It may change the address that it has towards the gateway.
type relay struct {
	client *net.UDPConn
	to     *net.UDPAddr

	mu     sync.Mutex
	from   net.Addr
	server *net.UDPConn
}

func (r *relay) move() error {
	server, err := net.DialUDP("udp", nil, r.to)
	if err != nil {
		return err
	}
	r.mu.Lock()
	old := r.server
	r.server = server
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := server.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			r.mu.Lock()
			from := r.from
			r.mu.Unlock()
			if err == nil && from != nil {
				_, _ = r.client.WriteTo(b[:n], from)
			}
		}
	}()
	return nil
}

func (r *relay) run() {
	b := make([]byte, 64<<10)
	for {
		n, from, err := r.client.ReadFrom(b)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.from = from
		_, _ = r.server.Write(b[:n])
		r.mu.Unlock()
	}
}

// A client whose address changes in the middle of its sends stays logged in, and nothing is sent twice.
func TestClientWhoseAddressChanges(t *testing.T) {
	way := &relay{}
	r := newRig(t, func(addr string) string {
		var err error
		if way.to, err = net.ResolveUDPAddr("udp", addr); err != nil {
			t.Fatal(err)
		}
		if way.client, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		if err := way.move(); err != nil {
			t.Fatal(err)
		}
		go way.run()
		return way.client.LocalAddr().String()
	})
	t.Cleanup(func() {
		way.client.Close()
		way.mu.Lock()
		defer way.mu.Unlock()
		way.server.Close()
	})
	if c := r.connected(); !strings.HasPrefix(c.URL, "https://") {
		t.Fatalf("connected by %s", c.URL)
	}
	for i := range 5 {
		if err := way.move(); err != nil {
			t.Fatal(err)
		}
		r.submit(fmt.Sprint("after move ", i))
	}
	if n := r.region.Logins(); n != 1 {
		t.Errorf("%d logins: it was cut", n)
	}
}
