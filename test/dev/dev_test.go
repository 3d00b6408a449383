// Package dev tests whole regions in one process, as antipode dev runs them: real loopback RPC, real PostgreSQL, links
// through faultnet. Each test works in a folder and on ports of its own.
package dev

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/demo"
)

func start(t *testing.T, data string, regions ...string) *app.Dev {
	t.Helper()
	return startWith(t, app.DevConfig{Regions: regions, Data: data})
}

func startWith(t *testing.T, cfg app.DevConfig) *app.Dev {
	t.Helper()
	cfg.Delay, cfg.Listen, cfg.Progress = 20*time.Millisecond, "127.0.0.1:0", func(s string) { t.Log(s) }
	if cfg.Data == "" {
		cfg.Data = t.TempDir()
	}
	d, err := app.NewDev(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// inbox is a client with what it was told.
type inbox struct {
	*client.Client
	messages chan client.Message
	regions  chan im.Region // each one that took the login
}

func connect(t *testing.T, d *app.Dev, uid im.UID, region im.Region, change ...func(*client.Config)) *inbox {
	t.Helper()
	token, _, err := d.Token(uid)
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.Config{UID: uid, Region: region, Token: client.StaticToken(token), IPConf: []string{d.IPConf(region)}}
	for _, r := range d.Regions() {
		if r != region {
			cfg.IPConf = append(cfg.IPConf, d.IPConf(r))
		}
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	box := &inbox{c, make(chan client.Message, 1000), make(chan im.Region, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range c.Events() {
			switch e := e.(type) {
			case client.Inserted:
				box.messages <- e.Message
			case client.Connected:
				box.regions <- e.Region
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatalf("%s does not get into %s: %v", uid, region, err)
	}
	return box
}

// next waits for a message of a text.
func (b *inbox) next(t *testing.T, text string) client.Message {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m := <-b.messages:
			if m.Text == text {
				return m
			}
		case <-timeout:
			t.Fatalf("%s did not get %q in %v", b.UID(), text, patience)
		}
	}
}

func (b *inbox) send(t *testing.T, c im.Conversation, text string, opts ...client.SubmitOption) im.Ack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ack, err := b.Submit(ctx, c, text, opts...)
	if err != nil {
		t.Fatalf("%s cannot send %q: %v", b.UID(), text, err)
	}
	return ack
}

// patience is how long a test waits for what must come: far more than it takes, on however busy a machine.
const patience = 3 * time.Minute

// await polls until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func equalDigests(t *testing.T, d *app.Dev) bool {
	t.Helper()
	digests, err := d.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(checker.Check(&checker.History{Digests: digests})) == 0
}

// TestInvariantsUnderFaults plays the demo in short.
func TestInvariantsUnderFaults(t *testing.T) {
	d := start(t, t.TempDir(), "eu", "us", "ap")
	h, err := demo.Run(t.Context(), demo.Config{
		PerPair: 120, Users: 2, Group: 60, Length: 6 * time.Second, Settle: patience, Gateway: "gateway-1",
		Log: func(s string) { t.Log(s) },
	}, d, d, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range checker.Check(h) {
		t.Error(v)
	}
	s := checker.Summarize(h)
	if want := 3*120 + 60; s.Sent != want || s.Acked != want || s.ReceivedOnce != want || s.Regions != 3 || s.Digests != 3 {
		t.Errorf("want %d sent, acked and received once in 3 regions, got %+v", want, s)
	}
}

// TestDataOutlivesTheProcess stops dev and starts it again on the same folder.
func TestDataOutlivesTheProcess(t *testing.T) {
	data := t.TempDir()
	d := start(t, data, "eu", "us")
	chat := im.Direct("ann", "bob")
	ann, bob := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us")
	first := ann.send(t, chat, "before")
	bob.next(t, "before")
	ann.Close()
	bob.Close()
	d.Close()

	d = start(t, data, "eu", "us")
	ann, bob = connect(t, d, "ann", "us"), connect(t, d, "bob", "eu")
	bob.next(t, "before")
	ann.next(t, "before")
	second := bob.send(t, chat, "after")
	ann.next(t, "after")
	if second.Stamp <= first.Stamp {
		t.Errorf("I4: the second message is at %v, the first at %v", second.Stamp, first.Stamp)
	}
	await(t, "views are equal", func() bool { return equalDigests(t, d) })

	d.Close()
	other, err := app.NewDev(app.DevConfig{Regions: []string{"eu", "ap"}, Listen: "127.0.0.1:0", Data: data})
	if err == nil {
		other.Close()
		t.Fatal("other regions were started over the data of these")
	}
	if !strings.Contains(err.Error(), "--fresh") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}

// TestRegionDies kills a whole region: its clients go on elsewhere, and it catches up when it is back.
func TestRegionDies(t *testing.T) {
	d := start(t, t.TempDir(), "eu", "us")
	chat := im.Direct("ann", "bob")
	ann, bob := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us")
	ann.send(t, chat, "one")
	bob.next(t, "one")
	<-ann.regions

	if err := d.Kill(t.Context(), console.Target{Region: "eu"}); err != nil {
		t.Fatal(err)
	}
	ack := ann.send(t, chat, "two") // through the other region, without ann's doing
	if ack.Origin != "us" {
		t.Errorf("eu is dead, but %q took the message", ack.Origin)
	}
	bob.next(t, "two")
	if r := <-ann.regions; r != "us" {
		t.Errorf("ann is in %s", r)
	}

	if err := d.Restart(t.Context(), console.Target{Region: "eu"}); err != nil {
		t.Fatal(err)
	}
	await(t, "eu caught up", func() bool {
		digests, err := d.Digests(t.Context())
		return err == nil && len(checker.Check(&checker.History{Digests: digests})) == 0
	})
	eve := connect(t, d, "bob", "eu") // another device of bob, in the region that was dead
	eve.next(t, "one")
	eve.next(t, "two")
}

// TestTwoRegions is what takes no region, gateway or process down, in the same two regions: each has users of its own.
func TestTwoRegions(t *testing.T) {
	d := startWith(t, app.DevConfig{
		Regions: []string{"eu", "us"}, Configure: func(c *config.Config) { c.IMServer.GlobalTimeout = 6 * time.Second }, // of a machine that is slow
	})
	for name, test := range map[string]func(*testing.T, *app.Dev){
		"GlobalAck":                  globalAck,
		"LateMessagesTakeTheirPlace": lateMessagesTakeTheirPlace,
		"GroupAcrossRegions":         groupAcrossRegions,
		"OneTraceAcrossRegions":      oneTraceAcrossRegions,
	} {
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}

// globalAck asks for an ack that survives the loss of the region.
func globalAck(t *testing.T, d *app.Dev) {
	chat := im.Direct("dan", "eva")
	dan := connect(t, d, "dan", "eu")
	if ack := dan.send(t, chat, "held", client.WithAck(im.AckGlobal)); !ack.Global {
		t.Error("us was reachable, but the ack says: accepted in region only")
	}
	if err := d.Cut(t.Context(), "eu", "us"); err != nil {
		t.Fatal(err)
	}
	if ack := dan.send(t, chat, "alone", client.WithAck(im.AckGlobal)); ack.Global {
		t.Error("the link is cut, but the ack says that a peer holds the message")
	}
	if err := d.Heal(t.Context(), "eu", "us"); err != nil {
		t.Fatal(err)
	}
	connect(t, d, "eva", "us").next(t, "alone")
}

// lateMessagesTakeTheirPlace writes on both sides of a cut link.
func lateMessagesTakeTheirPlace(t *testing.T, d *app.Dev) {
	chat := im.Direct("fay", "gil")
	fay, gil := connect(t, d, "fay", "eu"), connect(t, d, "gil", "us")
	for _, l := range [][2]im.Region{{"eu", "us"}, {"us", "eu"}} {
		if err := d.Cut(t.Context(), l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	fay.send(t, chat, "fay 1")
	gil.send(t, chat, "gil 1")
	fay.send(t, chat, "fay 2")
	for _, l := range [][2]im.Region{{"eu", "us"}, {"us", "eu"}} {
		if err := d.Heal(t.Context(), l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	texts := func(b *inbox) []string {
		var list []string
		for _, m := range b.Messages(chat) {
			list = append(list, m.Text)
		}
		return list
	}
	want := []string{"fay 1", "gil 1", "fay 2"}
	await(t, "both show all three in the order of their stamps", func() bool {
		return slices.Equal(texts(fay), want) && slices.Equal(texts(gil), want)
	})
}

// groupAcrossRegions creates a group, removes a member, and checks what each may see.
func groupAcrossRegions(t *testing.T, d *app.Dev) {
	ann, bob, cho := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us"), connect(t, d, "cho", "us")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	group, err := ann.CreateGroup(ctx, "Lunch", []im.UID{"bob", "cho"})
	if err != nil {
		t.Fatal(err)
	}
	bob.send(t, group, "hello from bob")
	ann.next(t, "hello from bob")
	cho.next(t, "hello from bob")
	if _, err := ann.RemoveMembers(ctx, group, "cho"); err != nil {
		t.Fatal(err)
	}
	await(t, "us knows that cho was removed", func() bool {
		_, uids, err := bob.Members(ctx, group)
		return err == nil && !slices.Contains(uids, "cho")
	})
	ann.send(t, group, "without cho")
	bob.next(t, "without cho")
	if _, err := cho.Submit(ctx, group, "still here?"); im.CodeOf(err) != im.CodeNotMember {
		t.Errorf("a removed member got %v, want %s", err, im.CodeNotMember)
	}
	if slices.ContainsFunc(cho.Messages(group), func(m client.Message) bool { return m.Text == "without cho" }) {
		t.Error("I11: a removed member saw what was said after")
	}
	await(t, "views are equal", func() bool { return equalDigests(t, d) })
}

// oneTraceAcrossRegions follows one message from submit to both receivers.
func oneTraceAcrossRegions(t *testing.T, d *app.Dev) {
	chat := im.Direct("hal", "ida")
	ida := connect(t, d, "ida", "us")
	hal := connect(t, d, "hal", "eu", func(c *client.Config) { c.SampleRatio = 1 })
	connect(t, d, "hal", "eu") // another device, which the gateway of eu delivers to
	hal.send(t, chat, "follow me")
	trace := ida.next(t, "follow me").Trace
	parts := strings.Split(trace, "-")
	if len(parts) != 4 {
		t.Fatalf("the message carries the traceparent %q", trace)
	}
	var seen []string
	await(t, "every verb of the path has its span, in its region", func() bool {
		spans, err := d.Spans(t.Context(), parts[1])
		if err != nil {
			t.Fatal(err)
		}
		seen = seen[:0]
		for _, s := range spans {
			seen = append(seen, s.Region+" "+s.Service+" "+s.Name) // several services have a span of the same verb
		}
		for _, want := range []string{
			"eu imserver submit", "eu imserver append", "eu imserver apply", "eu imserver deliver", "eu gateway deliver",
			"us replicator ship", "us imserver apply", "us router deliver", "us gateway deliver",
		} {
			if !slices.Contains(seen, want) {
				return false
			}
		}
		return true
	})
	t.Log(seen)
}

// TestTakenPortIsNamed starts a second one beside the first.
func TestTakenPortIsNamed(t *testing.T) {
	cfg := app.DevConfig{Regions: []string{"eu"}, Listen: "127.0.0.1:0", Data: t.TempDir()}
	d, err := app.NewDev(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	address := strings.TrimPrefix(d.URL(), "http://")
	_, port, _ := net.SplitHostPort(address)
	cfg.Listen, cfg.Data = address, t.TempDir()
	second, err := app.NewDev(cfg)
	if err == nil {
		second.Close()
		t.Fatal("a second one took the same ports")
	}
	if !strings.Contains(err.Error(), "port "+port) || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("want an error that names port %s and what to do, got: %v", port, err)
	}
}
