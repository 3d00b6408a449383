package client

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// TokenSource returns a JWT whose subject is the uid. refresh is true when the last one was refused as expired. It is
// called before each connection, so it should cache.
type TokenSource func(ctx context.Context, refresh bool) (string, error)

// StaticToken is a TokenSource that always returns one token.
func StaticToken(token string) TokenSource {
	return func(context.Context, bool) (string, error) { return token, nil }
}

// Config says who connects, and through which ipconfs.
type Config struct {
	// IPConf lists base URLs of ipconfs (http://host:port), of any region; the first that answers is used. Required
	// unless Endpoints is set.
	IPConf []string
	// Endpoints is a list to start with, and to fall back on while no ipconf answers: bootstrap addresses. A list that Store
	// keeps (ListStore) comes before it.
	Endpoints []wire.Endpoint
	// CatalogueKeys are the keys, by id, of which one must have signed the catalogue that names a gateway: then a list can be
	// trusted whoever handed it on. Default: lists are trusted as far as TLS is.
	CatalogueKeys map[string]ed25519.PublicKey
	// Policy is followed until an ipconf tells its own. Default: wire.DefaultPolicy.
	Policy wire.Policy
	// Token gives the JWT. Required.
	Token TokenSource
	// UID is used only for ipconf's ranking until welcome tells it. Optional.
	UID im.UID
	// Platform is the device class: ios, android, web or desktop (default).
	Platform im.Platform
	// Agent names the client to operators.
	Agent string
	// Network (wifi, cell…: Client.SetNetwork tells another) and Region (a preferred one; empty: nearest) are hints to ipconf.
	Network string
	Region  im.Region
	// Home is the region in which the user is at home, if the program knows one: preferred unless another is much nearer.
	Home im.Region
	// Store keeps the device id and login number. Default: in memory, which is a new device for each Client.
	Store Store
	// Subprotocol is wire.SubprotocolProtobuf (default) or wire.SubprotocolJSON.
	Subprotocol string

	// Keep bounds the messages kept per conversation. Default 10,000.
	Keep int
	// History bounds what a conversation that is new to this Client pulls: at most so many records per origin. Default
	// 0: everything.
	History int
	// Outbox bounds the submits under way or waiting, over all conversations. Default 4,096.
	Outbox int
	// Inbox bounds pushes received but not yet applied; more are dropped and pulled. Default 1,024.
	Inbox int
	// EventBuffer is the capacity of Events(). While it is full nothing is applied. Default 256.
	EventBuffer int
	// Pipeline is how many submits of one conversation may be under way at once. Default 1, which keeps their order
	// whatever happens. With more, a gateway fails those that are queued behind a failed one, but one that was still on
	// its way to the gateway then is accepted, ahead of the failed one's next try.
	Pipeline int
	// CallTimeout bounds the wait for a reply; a gateway that misses it is left. It must exceed the servers' deadline for
	// global acks. Default 20 s.
	CallTimeout time.Duration

	// SampleRatio is the part (0 to 1) of submits that carry a sampled traceparent. Default 0: none.
	SampleRatio float64
	// Tracer makes the spans submit and receive of sampled records. Optional.
	Tracer trace.Tracer
	// Logger tells of reconnects at debug level and of stops at warn. Optional.
	Logger *slog.Logger

	// Dial opens TCP connections (to gateways and ipconfs alike). Default: a net.Dialer without the kernel's keepalives,
	// whose sockets give up, on Linux, when what was sent is not acknowledged within CallTimeout.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for wss and https. Default: the system's roots.
	TLS *tls.Config
	// HTTP asks ipconfs and the HTTP fallback. Default: a client of its own that uses Dial and TLS.
	HTTP *http.Client
}

func (c Config) withDefaults() (Config, error) {
	if len(c.IPConf) == 0 && len(c.Endpoints) == 0 {
		return c, errors.New("client: set IPConf to the URL of at least one ipconf, or Endpoints")
	}
	if c.Token == nil {
		return c, errors.New("client: set Token to a TokenSource")
	}
	switch c.Subprotocol {
	case "":
		c.Subprotocol = wire.SubprotocolProtobuf
	case wire.SubprotocolProtobuf, wire.SubprotocolJSON:
	default:
		return c, fmt.Errorf("client: subprotocol %q: want %s or %s", c.Subprotocol, wire.SubprotocolProtobuf, wire.SubprotocolJSON)
	}
	if c.Platform == "" {
		c.Platform = "desktop"
	}
	if c.Agent == "" {
		c.Agent = "antipode-go"
	}
	if c.Store == nil {
		c.Store = new(MemoryStore)
	}
	positive := func(v *int, fallback int) {
		if *v <= 0 {
			*v = fallback
		}
	}
	positive(&c.Keep, 10_000)
	positive(&c.Outbox, 4_096)
	positive(&c.Inbox, 1_024)
	positive(&c.EventBuffer, 256)
	positive(&c.Pipeline, 1)
	if c.CallTimeout <= 0 {
		c.CallTimeout = 20 * time.Second
	}
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = dialer(c.CallTimeout).DialContext
	}
	c.Policy = c.Policy.Within()
	if c.HTTP == nil {
		c.HTTP = &http.Client{Transport: &http.Transport{
			DialContext: c.Dial, TLSClientConfig: c.TLS, Proxy: http.ProxyFromEnvironment,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		}}
	}
	return c, nil
}
