package browser

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
)

// TestPagesOverDev runs over whole regions what TestPages runs over the fake ones.
func TestPagesOverDev(t *testing.T) {
	b := Start(t)
	d, err := app.NewDev(app.DevConfig{
		Regions: []string{"ap", Here, There}, Delay: 20 * time.Millisecond, Listen: "127.0.0.1:0", Data: t.TempDir(), Pages: true,
		Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name     string
		scenario func(*testing.T, *Browser, string)
	}{
		{"talk", Talk},
		{"group", Group},
		{"global ack", GlobalAck},
		{"trace", Trace},
		{"gateway kill", GatewayKill},
		{"console by keyboard", ConsoleByKeyboard},
		{"cut link", CutLink},
		{"region kill", RegionKill},
	} {
		t.Run(s.name, func(t *testing.T) { s.scenario(t, b, d.URL()) })
	}
}

// With the option, a page's client is connected by WebTransport.
func TestWebTransportOverDev(t *testing.T) {
	b := Start(t, chromedp.Flag("disable-quic", false))
	d, err := app.NewDev(app.DevConfig{
		Regions: []string{Here}, Listen: "127.0.0.1:0", Data: t.TempDir(), Pages: true, WebTransport: true,
		Configure: func(c *config.Config) {
			c.IPConf.Policy.RaceStagger, c.IPConf.Policy.ConnectTimeout = 10*time.Second, 20*time.Second
		}, // a busy machine is no slow network
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := b.Open(t, d.URL()+"/")
	Eval[any](p, `Promise.all([import("/sdk/antipode.js"), import("/js/dev.js")]).then(async ([{ Client }, { dev }]) => {
		const [{ ipconf, certificate }] = await dev.endpoints();
		window.client = new Client({ uid: "ann", ipconf: [ipconf], certificates: [certificate], token: () => dev.token("ann") });
		client.start();
	})`)
	p.Until("it is connected by WebTransport", `client.state.phase === "online" && client.state.carrier === "WebTransport"`)
}
