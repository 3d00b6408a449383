package dev

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/demo"
)

// without is a dev as those see it who know that a region is lost.
type without struct {
	*app.Dev
	lost atomic.Pointer[im.Region]
}

func (w *without) Regions() []im.Region {
	all := w.Dev.Regions()
	if lost := w.lost.Load(); lost != nil {
		all = slices.DeleteFunc(all, func(r im.Region) bool { return r == *lost })
	}
	return all
}

// TestRegionLostUnderLoad: users of three regions write with global acks; eu burns down in the middle of it, when us lacks
// what ap has. Then eu is declared lost in us. No record that was acked as global is lost, us and ap hold the same, and
// those who were in eu go on elsewhere. When eu comes back with its disks, it does not start; it returns under its next
// epoch, with what it took and nobody received.
func TestRegionLostUnderLoad(t *testing.T) {
	data := t.TempDir()
	w := &without{Dev: start(t, data, "eu", "us", "ap")}
	traffic, err := demo.StartTraffic(t.Context(), demo.TrafficConfig{
		Name: "lose", Pairs: 1, Group: true, Every: 10 * time.Millisecond, Ack: im.AckGlobal, Log: func(s string) { t.Log(s) },
	}, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(traffic.Close)
	begun := time.Now()
	await(t, "everybody writes to everybody", func() bool { ok, _ := traffic.Flows(begun, nil, nil); return ok })

	// ap gets ahead of us; then nothing leaves eu any more, which goes on taking messages for its own users; then it burns.
	for _, to := range []im.Region{"us", "ap"} {
		if err := w.Cut(t.Context(), "eu", to); err != nil {
			t.Fatal(err)
		}
		since := time.Now()
		await(t, "eu goes on", func() bool { ok, _ := traffic.Accepts(since, "eu"); return ok })
	}
	if err := w.Kill(t.Context(), console.Target{Region: "eu"}); err != nil {
		t.Fatal(err)
	}
	operator, err := w.Operator("us")
	if err != nil {
		t.Fatal(err)
	}
	settled, err := operator.Lose(t.Context(), app.LoseOrder{Region: "eu", Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(app.DescribeSettled(settled[0]))
	if settled[0].Shipped == 0 {
		t.Error("us and ap held the same of eu's log: the test shows nothing")
	}
	lost := im.Region("eu")
	w.lost.Store(&lost)
	since := time.Now()
	await(t, "everybody goes on in the regions that are left", func() bool { ok, _ := traffic.Flows(since, nil, nil); return ok })

	traffic.MayLose("eu")
	h, err := traffic.Settle(t.Context(), patience, w.Without("eu"))
	if err != nil {
		t.Fatal(err)
	}
	var kept, regional []checker.Submit // by eu
	h.Submits = slices.DeleteFunc(h.Submits, func(s checker.Submit) bool {
		switch {
		case s.Ack.Origin != "eu":
			return false
		case s.Ack.Global:
			kept = append(kept, s)
			return false
		}
		regional = append(regional, s) // the answer said: accepted in region only
		return true
	})
	t.Logf("%d messages in all; eu acked %d as global and %d in region only", len(h.Submits)+len(regional), len(kept), len(regional))
	if len(kept) == 0 || len(regional) == 0 {
		t.Error("the test shows nothing")
	}
	h.Receivers = nil // some of the users saw what is lost now
	for _, v := range checker.Check(h) {
		t.Error(v)
	}
	traffic.Close()

	returns(t, w.Dev, data, h, regional)
}

// returns brings eu back and checks that what it took is there again.
func returns(t *testing.T, d *app.Dev, data string, h *checker.History, regional []checker.Submit) {
	t.Helper()
	err := d.Restart(t.Context(), console.Target{Region: "eu"})
	if _, ok := errors.AsType[*im.LostError](err); !ok {
		t.Fatalf("eu was declared lost, and its services start: %v", err)
	}
	if err := d.Kill(t.Context(), console.Target{Region: "eu"}); err != nil {
		t.Fatal(err)
	}
	if err := d.StartBackends("eu"); err != nil {
		t.Fatal(err)
	}
	operator, err := d.OperatorAt("eu", 2)
	if err != nil {
		t.Fatal(err)
	}
	returned, err := operator.Return(t.Context(), false, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", returned)
	if returned.Former != "eu" || returned.Origin != "eu.2" || returned.Resent.Here == 0 || returned.Copied == 0 {
		t.Errorf("eu returned with %+v", returned)
	}
	d.Close()

	again, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu", "us", "ap"}, Delay: 20 * time.Millisecond, Listen: "127.0.0.1:0", Data: data,
		Epochs: map[im.Region]uint32{"eu": 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "all regions applied all logs and have equal views", func() bool {
		behind, err := again.Behind(t.Context())
		return err == nil && len(behind) == 0 && equalDigests(t, again)
	})
	logs, err := again.Logged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type key struct {
		id    im.ID
		stamp im.Stamp
	}
	there := map[key]im.Origin{}
	for _, l := range logs {
		there[key{l.ID, l.Stamp}] = l.Origin
	}
	for _, s := range append(h.Submits, regional...) {
		if there[key{s.ID, s.Ack.Stamp}] == "" {
			t.Errorf("I1: %v was acked by %s at %v and is in no log", s.ID, s.Ack.Origin, s.Ack.Stamp)
		}
	}
	past := int64(0)
	for _, s := range regional { // what was received though nobody said so in time is below the seal
		if there[key{s.ID, s.Ack.Stamp}] == "eu.2" {
			past++
		}
	}
	if past == 0 || past > returned.Resent.Here {
		t.Errorf("%d of %d messages that were acked in region only are in the log of eu.2; %d records were sent again", past, len(regional), returned.Resent.Here)
	}
	if operator, err = again.Operator("eu"); err != nil {
		t.Fatal(err)
	}
	if err := operator.Activate(t.Context(), func(s string) { t.Log(s) }); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(t, again, "eu"); s != im.StateActive {
		t.Errorf("eu has caught up and is %q", s)
	}
	chat := im.Direct("ann", "bob") // and it works
	ann, bob := connect(t, again, "ann", "eu"), connect(t, again, "bob", "us")
	if ack := ann.send(t, chat, "back"); ack.Origin != "eu.2" {
		t.Errorf("eu takes messages as %q", ack.Origin)
	}
	bob.next(t, "back")
	bob.send(t, chat, "welcome")
	ann.next(t, "welcome")
}
