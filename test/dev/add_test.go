package dev

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/demo"
	"github.com/antipode-im/antipode/ipconf"
)

// TestFourthRegion: a fourth region is added to three whose users write all the time, by one order. Nothing of the three is
// started again; the fourth takes clients once it has what they have, and then all four hold the same. Then it is drained
// and removed: the three go on, as if it had never been, with what its users wrote.
func TestFourthRegion(t *testing.T) {
	d := startWith(t, app.DevConfig{
		Regions: []string{"eu", "us", "ap"}, Configure: func(c *config.Config) { c.IPConf.DrainOver = time.Second },
	})
	before := d.Running()
	traffic, err := demo.StartTraffic(t.Context(), demo.TrafficConfig{
		Name: "add", Pairs: 1, Group: true, Every: 100 * time.Millisecond, Log: func(s string) { t.Log(s) },
	}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(traffic.Close)
	begun := time.Now()
	await(t, "everybody writes to everybody", func() bool { ok, _ := traffic.Flows(begun, nil, nil); return ok })

	if err := d.AddRegion(patient(t), "sa"); err != nil {
		t.Fatal(err)
	}
	await(t, "sa has caught up, and all ipconfs name it", func() bool {
		return stateOf(t, d, "sa") == im.StateActive && handsOut(t, d, "eu", "sa") && handsOut(t, d, "us", "sa") && handsOut(t, d, "ap", "sa") &&
			handsOut(t, d, "sa", "sa") // whom its own clients ask
	})
	chat := im.Direct("cid", "ann")
	cid, ann := connect(t, d, "cid", "sa"), connect(t, d, "ann", "eu")
	if ack := cid.send(t, chat, "from the new region"); ack.Origin != "sa" {
		t.Errorf("sa takes messages as %q", ack.Origin)
	}
	ann.next(t, "from the new region")
	ann.send(t, chat, "to the new region")
	cid.next(t, "to the new region")
	since := time.Now()
	await(t, "everybody goes on", func() bool { ok, _ := traffic.Flows(since, nil, nil); return ok })

	h, err := traffic.Settle(t.Context(), patience, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range checker.Check(h) {
		t.Error(v)
	}
	if len(h.Digests) != 4 {
		t.Errorf("%d regions were compared", len(h.Digests))
	}
	for name, was := range before {
		if d.Running()[name] != was {
			t.Errorf("%s was started again", name)
		}
	}

	operator, err := d.Operator("eu")
	if err != nil {
		t.Fatal(err)
	}
	log := func(line string) { t.Log(line) }
	if err := operator.Remove(patient(t), "sa", log); err == nil || !strings.Contains(err.Error(), "drain it first") {
		t.Fatalf("a region that takes clients is removed: %v", err)
	}
	if err := operator.Drain(patient(t), "sa", log); err != nil {
		t.Fatal(err)
	}
	removeWhenShared(t, d, operator, ann, chat)
	for _, r := range []im.Region{"eu", "us", "ap"} {
		await(t, string(r)+" does not ask for the log of sa any more", func() bool {
			linked, err := d.Linked(r)
			return err == nil && len(linked) == 2 && !slices.Contains(linked, "sa")
		})
	}
	cid.send(t, chat, "from elsewhere")
	ann.next(t, "from elsewhere")
	left := d.Without("sa")
	await(t, "the three hold the same", func() bool {
		digests, err := left.Digests(t.Context())
		return err == nil && len(digests) == 3 && len(checker.Check(&checker.History{Digests: digests})) == 0
	})
	for name, was := range before {
		if d.Running()[name] != was {
			t.Errorf("%s was started again", name)
		}
	}
}

// removeWhenShared has sa removed while it is the only other region that has what was written in eu: the order waits until another
// one has it, so that the loss of eu afterwards takes nothing along (I1).
func removeWhenShared(t *testing.T, d *app.Dev, operator *app.Operator, ann *inbox, chat im.Conversation) {
	t.Helper()
	for _, to := range []im.Region{"us", "ap"} {
		if err := d.Cut(t.Context(), "eu", to); err != nil {
			t.Fatal(err)
		}
	}
	ann.send(t, chat, "only sa has this")
	await(t, "sa has it", func() bool {
		behind, err := d.Without("us", "ap").Behind(t.Context())
		return err == nil && len(behind) == 0
	})
	waits, removed := make(chan struct{}), make(chan error, 1)
	go func() {
		var once sync.Once
		removed <- operator.Remove(patient(t), "sa", func(line string) {
			t.Log(line)
			if strings.Contains(line, "that region sa has") {
				once.Do(func() { close(waits) })
			}
		})
	}()
	select {
	case <-waits:
	case err := <-removed:
		t.Fatalf("sa was removed (%v) while no other region had what it has of eu", err)
	}
	if state := stateOf(t, d, "sa"); state != im.StateDrained {
		t.Errorf("while the order waits, sa is %s", state)
	}
	for _, to := range []im.Region{"us", "ap"} {
		if err := d.Heal(t.Context(), "eu", to); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
}

// handsOut tells whether an ipconf lets clients into a region.
func handsOut(t *testing.T, d *app.Dev, asked, region im.Region) bool {
	t.Helper()
	e, ok := explained(t, d, asked)
	return ok && slices.ContainsFunc(e.Ranked, func(r ipconf.Reason) bool { return r.Region == region })
}

// TestRegionAddedAfterALoss: eu is lost for good, and ap, which knows nothing of it, takes its place. It takes clients once it has the
// log of eu that counts, as us has it; who wrote in eu and goes on there finds everything. Then all that are left hold the same.
func TestRegionAddedAfterALoss(t *testing.T) {
	d := start(t, t.TempDir(), "eu", "us")
	chat := im.Direct("ann", "bob")
	ann, bob := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us")
	var want []string
	for n := range 30 {
		text := fmt.Sprintf("before %02d", n)
		want = append(want, text)
		from, to := ann, bob
		if n%3 == 2 {
			from, to = bob, ann
		}
		from.send(t, chat, text)
		to.next(t, text)
	}
	ann.Close()
	if err := d.Kill(t.Context(), console.Target{Region: "eu"}); err != nil {
		t.Fatal(err)
	}
	log := func(line string) { t.Log(line) }
	operator, err := d.Operator("us")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Lose(patient(t), app.LoseOrder{Region: "eu", Progress: log}); err != nil {
		t.Fatal(err)
	}
	if err := d.AddRegion(patient(t), "ap"); err != nil {
		t.Fatal(err)
	}
	await(t, "ap has caught up, and both ipconfs name it", func() bool {
		return stateOf(t, d, "ap") == im.StateActive && handsOut(t, d, "us", "ap") && handsOut(t, d, "ap", "ap")
	})
	if got := pulled(t, d, "ap", "ann", chat, nil); !slices.Equal(got, want) {
		t.Errorf("ap takes clients, and has %d of %d messages of before, or in another order: %q", len(got), len(want), got)
	}
	ann = connect(t, d, "ann", "ap")
	if ack := ann.send(t, chat, "after"); ack.Origin != "ap" {
		t.Errorf("ap takes messages as %q", ack.Origin)
	}
	bob.next(t, "after")
	bob.send(t, chat, "welcome")
	ann.next(t, "welcome")
	left := d.Without("eu")
	await(t, "both hold the same", func() bool {
		digests, err := left.Digests(t.Context())
		return err == nil && len(digests) == 2 && len(checker.Check(&checker.History{Digests: digests})) == 0
	})
	settled, err := operator.Lose(patient(t), app.LoseOrder{Region: "eu", Progress: log})
	if err != nil || !settled[0].Already {
		t.Errorf("us and ap do not agree where eu ends: %+v, %v", settled, err)
	}
}
