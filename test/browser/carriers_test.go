package browser

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/gatewaytest"
	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/faultnet"
	"github.com/antipode-im/antipode/test/browser/fakedev"
	"github.com/antipode-im/antipode/wire"
)

// carriers is a page with the SDK, and a gateway by TLS for it.
type carriers struct {
	*Page
	*gatewaytest.Region

	mu    sync.Mutex
	asked []url.Values // of the list
}

// networks are the kinds of network that the page told when it asked for the list.
func (c *carriers) networks() (kinds []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.asked {
		kinds = append(kinds, q.Get("network"))
	}
	return kinds
}

// newCarriers starts both. Without an identity, only WebTransport is by TLS, with a certificate that the page knows by its hash. change has
// the list of gateways told otherwise.
func newCarriers(t *testing.T, b *Browser, identity *certs.Identity, change func(*wire.Endpoints)) *carriers {
	t.Helper()
	issuer, err := issue.New("k1", nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.NewVerifier(auth.Config{Keys: []auth.Key{issuer.Key()}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Token("ann", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c := &carriers{Region: &gatewaytest.Region{Origin: Here}}
	cfg := gateway.Config{
		Gateway: im.Gateway{ID: "g1", Epoch: 7}, Region: Here, Origin: Here, Listen: "127.0.0.1:0", QUIC: "127.0.0.1:0", Origins: []string{"*"},
	}
	certificates := []string{}
	if identity != nil {
		cfg.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &identity.Certificate, nil }
	} else {
		brief, hash, err := certs.Brief(time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.QUICCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return brief, nil }
		certificates = append(certificates, base64.StdEncoding.EncodeToString(hash[:]))
	}
	g, err := gateway.New(cfg, gateway.Deps{Backend: c, Routers: c, Tokens: tokens, NextEpoch: func(context.Context) (uint64, error) { return 8, nil }})
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

	list := wire.Endpoints{
		Gateways: []wire.Endpoint{wire.EndpointOf(im.Instance{ID: "g1", Region: Here, URL: g.URL(), WebTransport: g.WebTransportURL()})},
		Policy:   wire.DefaultPolicy(), Region: Here, TTLMs: 60_000,
	}
	p := &list.Policy
	p.WebTransport, p.RaceStaggerMs, p.ConnectTimeoutMs, p.BackoffBaseMs, p.BackoffCapMs = true, 10_000, 20_000, 10, 100 // a busy machine is no slow network
	change(&list)
	world := fakedev.New(0, Here)
	handler, err := world.HandlerWith(console.Config{
		Files: os.DirFS("../../web"), Connect: []string{"https://127.0.0.1:*", "wss://127.0.0.1:*"},
		Also: map[string]http.Handler{"GET /v1/endpoints": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.asked = append(c.asked, r.URL.Query())
			c.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(list) // the page asks again
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)

	trusted, err := json.Marshal(certificates)
	if err != nil {
		t.Fatal(err)
	}
	c.Page = b.Open(t, server.URL+"/")
	Eval[any](c.Page, fmt.Sprintf(`import("/sdk/antipode.js").then(({ Client }) => {
		window.client = new Client({ uid: "ann", ipconf: [location.origin], certificates: %s, token: async () => ({ token: %q, expiresMs: Date.now() + 3600000 }) });
		client.start();
	})`, trusted, token))
	return c
}

// by waits until the client is connected by what carries frames, and has sent something that way.
func (c *carriers) by(carrier string) {
	c.t.Helper()
	c.Until("it is connected by "+carrier, fmt.Sprintf(`client.state.phase === "online" && client.state.carrier === %q`, carrier))
	Eval[any](c.Page, `client.rename("g:eu:019b796d-d984-7000-8000-000000000001", "pets")`)
}

func TestCarriers(t *testing.T) {
	authority, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	identity, err := authority.Identity("gateway", Here)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(identity.Certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	b := Start(t, chromedp.Flag("disable-quic", false),
		// QUIC takes no authority of this machine's own but in this mode, and then this key under whatever name.
		chromedp.Flag("webtransport-developer-mode", true),
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(key[:])),
	)

	t.Run("WebTransport where policy and gateway offer it", func(t *testing.T) {
		c := newCarriers(t, b, identity, func(*wire.Endpoints) {})
		c.by("WebTransport")
		c.Kick(im.CodeReplaced)
		c.Until("it hears why it is closed", `client.state.phase === "stopped" && client.state.error.code === "replaced"`)
	})

	t.Run("a WebSocket where the policy does not offer WebTransport", func(t *testing.T) {
		c := newCarriers(t, b, identity, func(e *wire.Endpoints) { e.Policy.WebTransport = false })
		c.by("WebSocket")
	})

	t.Run("a WebSocket where no UDP comes through", func(t *testing.T) {
		hole, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) // takes everything, says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer hole.Close()
		c := newCarriers(t, b, identity, func(e *wire.Endpoints) {
			e.Gateways[0].WebTransport, e.Policy.RaceStaggerMs = fmt.Sprintf("https://%s/v1/ws", hole.LocalAddr()), 50
		})
		c.by("WebSocket")
		if err := hole.SetReadDeadline(time.Now().Add(Wait)); err != nil {
			t.Fatal(err)
		}
		if _, err := hole.Read(make([]byte, 2048)); err != nil {
			t.Fatal("no WebTransport was tried: ", err)
		}
	})

	t.Run("another socket where the browser tells of another network", func(t *testing.T) {
		var way *faultnet.Proxy
		c := newCarriers(t, b, identity, func(e *wire.Endpoints) {
			at, err := url.Parse(e.Gateways[0].URL)
			if err != nil {
				t.Fatal(err)
			}
			if way, err = faultnet.Listen("127.0.0.1:0", at.Host); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { way.Close() })
			at.Host = way.Addr()
			e.Policy.WebTransport, e.Policy.ConnectTimeoutMs = false, 5_000 // a fifth of that is its head start
			e.Gateways[0].URL = at.String()
		})
		c.by("WebSocket")
		way.Strand() // the old address is gone
		// Only on phones does Chromium say more than how fast the network seems.
		Eval[any](c.Page, `Object.defineProperty(navigator.connection, "effectiveType", { value: "3g" }) && navigator.connection.dispatchEvent(new Event("change"))`)
		for _, offline := range []bool{true, false} {
			if _, err := chromedp.Call(c.Page.ctx, network.OverrideNetworkState, network.OverrideNetworkStateParams{
				Offline: offline, DownloadThroughput: -1, UploadThroughput: -1,
			}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "it logs in anew", func() bool { return c.Logins() == 2 })
		c.by("WebSocket")
		if got := c.networks(); got[0] == "3g" || got[len(got)-1] != "3g" {
			t.Errorf("it asked for the list as of the networks %q", got)
		}
	})

	t.Run("a long poll where no WebSocket comes through", func(t *testing.T) {
		c := newCarriers(t, b, identity, func(e *wire.Endpoints) {
			e.Policy.WebTransport, e.Policy.PollFallbackMs = false, 100
			e.Gateways[0].URL = strings.Replace(e.Gateways[0].URL, "/v1/ws", "/v1/blocked", 1)
		})
		c.by("long poll")
		c.Kick(im.CodeReplaced)
		c.Until("it hears why it is closed", `client.state.phase === "stopped" && client.state.error.code === "replaced"`)
	})
}

// Where no authority vouches for a gateway, a browser takes its WebTransport by the hash of its certificate, beside plain WebSockets.
func TestCertificateByHash(t *testing.T) {
	b := Start(t, chromedp.Flag("disable-quic", false))
	c := newCarriers(t, b, nil, func(*wire.Endpoints) {})
	c.by("WebTransport")
	other := newCarriers(t, b, nil, func(e *wire.Endpoints) { e.Policy.WebTransport = false })
	other.by("WebSocket")
}
