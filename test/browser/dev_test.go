package browser

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/app"
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
