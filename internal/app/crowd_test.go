package app

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/wire"
)

// follower is a client of a super group, and what it was shown.
type follower struct {
	*client.Client
	region   im.Region
	messages chan client.Message
}

func newFollower(t *testing.T, d *Dev, region im.Region, uid im.UID) *follower {
	t.Helper()
	token, _, err := d.Token(uid)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{UID: uid, Region: region, Token: client.StaticToken(token), IPConf: []string{d.IPConf(region)}})
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{c, region, make(chan client.Message, 10_000)}
	connected := make(chan client.Connected, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range c.Events() {
			switch e := e.(type) {
			case client.Connected:
				connected <- e
			case client.Inserted:
				f.messages <- e.Message
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	within(t, string(uid)+" connects", connected)
	return f
}

// until takes what a client is shown up to a text, and returns it.
func (f *follower) until(t *testing.T, text string) (shown []string) {
	t.Helper()
	for {
		m := within(t, fmt.Sprintf("%s is shown %q", f.UID(), text), f.messages)
		shown = append(shown, m.Text)
		if m.Text == text {
			return shown
		}
	}
}

// submit sends what the client library has no method for.
func (f *follower) submit(t *testing.T, d *Dev, r *wire.SubmitRequest) {
	t.Helper()
	token, _, err := d.Token(f.UID())
	if err != nil {
		t.Fatal(err)
	}
	r.ClientId = im.NewUUID(time.Now()).String()
	body, err := protojson.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range d.regions[0].gateway {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.Load().URL()+"/v1/submit", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatalf("submit: %s: %s", response.Status, answer)
		}
		return
	}
}

// pushed counts the sockets and gateways that the routers of a region pushed to for its imserver.
func pushed(t *testing.T, d *Dev, region int) (n float64) {
	t.Helper()
	for port := portAdmin; port < portEnd; port++ {
		r, err := http.Get("http://" + d.ports.region(region, port) + "/metrics")
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			if line := lines.Text(); strings.HasPrefix(line, "antipode_imserver_pushes_total") {
				v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
				if err != nil {
					t.Fatal(err)
				}
				n += v
			}
		}
		r.Body.Close()
	}
	return n
}

// A super group of two regions is delivered to the gateways that are interested in it. Members get every message, whichever
// gateway and region they are at; one who is added gets what follows, one who is removed nothing of it; and so it goes on when
// the routers begin anew.
func TestSuperGroupIsDeliveredToInterest(t *testing.T) {
	d, err := NewDev(DevConfig{
		Regions: []string{"eu", "us"}, Listen: "127.0.0.1:0", Data: t.TempDir(), Progress: func(s string) { t.Log(s) },
		Configure: func(c *config.Config) {
			c.IMServer.InterestAfter = time.Millisecond
			c.IPConf.Policy.FallbackPull = 10 * time.Second // for what is lost with a router
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()

	group := im.Conversation("s:eu:" + im.NewUUID(time.Now()).String())
	ann := newFollower(t, d, "eu", "ann")
	var here []*follower
	for n := range 4 {
		here = append(here, newFollower(t, d, "eu", im.UID(fmt.Sprint("eu", n))))
	}
	bob, cat, dan := here[0], newFollower(t, d, "us", "cat"), newFollower(t, d, "us", "dan")
	members := []string{"cat"}
	for _, f := range here {
		members = append(members, string(f.UID()))
	}
	for n := range 400 {
		members = append(members, fmt.Sprint("absent", n))
	}
	ann.submit(t, d, &wire.SubmitRequest{Conversation: string(group), Content: &wire.SubmitCreate{Create: &wire.Create{Title: "crowd", Members: members}}})
	n := 0
	say := func(to ...*follower) string {
		t.Helper()
		n++
		text := fmt.Sprint("message ", n)
		if _, err := ann.Submit(ctx, group, text); err != nil {
			t.Fatal(err)
		}
		for _, f := range append(to, ann) {
			f.until(t, text)
		}
		return text
	}

	all := append(here[:len(here):len(here)], cat)
	for {
		before := pushed(t, d, 0)
		say(all...)
		var now float64
		for now == before {
			if ctx.Err() != nil {
				t.Fatal("nothing is pushed")
			}
			now = pushed(t, d, 0)
		}
		if now-before <= 2 { // gateways, of which there are two, instead of five clients
			break
		}
	}

	ann.submit(t, d, &wire.SubmitRequest{Conversation: string(group), Content: &wire.SubmitMember{Member: &wire.Member{Add: []string{"dan"}, Remove: []string{string(bob.UID())}}}})
	stay := append(here[1:len(here):len(here)], cat, dan)
	for range 3 {
		say(stay...)
	}
	for _, u := range d.regions[0].services {
		if u.Name == "eu/router" {
			u.Kill()
			if err := u.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 3 {
		say(stay...)
	}
	if _, err := ann.Submit(ctx, im.Direct("ann", bob.UID()), "only you"); err != nil {
		t.Fatal(err)
	}
	if shown := bob.until(t, "only you"); !slices.Equal(shown, []string{"", "only you"}) { // the first is his removal
		t.Errorf("after his removal bob is shown %q", shown)
	}
}
