package dev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/demo"
	"github.com/antipode-im/antipode/wire"
)

// TestSeededRegion: retention has cut the logs of two regions, so that what was written before is in their timelines alone,
// and users go on writing all the time. A third region is seeded from one of them; the seeding is killed on the way and
// begun again. Then the third takes clients, who read everything there, once and in order, also those that go on with an old
// cursor; and all regions hold the same.
func TestSeededRegion(t *testing.T) {
	d := start(t, t.TempDir(), "eu", "us")
	chat := im.Direct("ann", "cid")
	ann, bob, cid := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us"), connect(t, d, "cid", "us")
	group, err := ann.CreateGroup(patient(t), "Before", []im.UID{"bob", "cid"})
	if err != nil {
		t.Fatal(err)
	}
	const history = 80
	var want []string
	var old im.Cursor // of one who goes away in the middle
	for n := range history {
		text := fmt.Sprintf("history %03d", n)
		want = append(want, text)
		ann.send(t, chat, text)
		if n%4 == 0 {
			ann.send(t, group, text)
		}
		if n == history/2 {
			cid.next(t, text)
			cid.Read(chat)
			old = cid.Cursor(chat)
		}
	}
	bob.next(t, want[history-4])
	bob.Read(group)
	if _, err := ann.RemoveMembers(patient(t), group, "cid"); err != nil {
		t.Fatal(err)
	}
	await(t, "both regions have everything, also how far it was read", func() bool {
		behind, err := d.Behind(t.Context())
		row := listed(t, d, "us", "bob")[string(group)]
		return err == nil && len(behind) == 0 && equalDigests(t, d) && row != nil && row.Unread == 0 &&
			listed(t, d, "eu", "cid")[string(chat)].GetUnread() == uint32(history-history/2-1)
	})
	if err := d.Trim(patient(t)); err != nil {
		t.Fatal(err)
	}
	traffic, err := demo.StartTraffic(t.Context(), demo.TrafficConfig{
		Name: "seed", Pairs: 1, Group: true, Every: 100 * time.Millisecond, Log: func(s string) { t.Log(s) },
	}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(traffic.Close)

	log := func(s string) { t.Log(s) }
	if err := d.AddSeeded(patient(t), "ap", func(o *app.Operator) error {
		killed, kill := context.WithCancel(patient(t))
		if _, err := o.Seed(killed, app.SeedOrder{From: "eu", Progress: func(line string) {
			t.Log(line)
			if strings.Contains(line, "messages are here") { // the first chunk is
				kill()
			}
		}}); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("a seeding that was killed ended with: %w", err)
		}
		if _, err := o.Seed(patient(t), app.SeedOrder{From: "us", Progress: log}); err == nil || !strings.Contains(err.Error(), "is being seeded from eu") {
			return fmt.Errorf("snapshots of two regions are mixed: %w", err)
		}
		wentOn := false
		planted, err := o.Seed(patient(t), app.SeedOrder{From: "eu", Progress: func(line string) {
			t.Log(line)
			wentOn = wentOn || strings.Contains(line, "going on from eu")
		}})
		if err != nil {
			return err
		}
		t.Logf("%+v", planted)
		if !wentOn {
			t.Error("the seeding did not go on where it was killed")
		}
		if planted, err = o.Seed(patient(t), app.SeedOrder{From: "eu", Progress: log}); err == nil && planted.Before != 1 {
			return fmt.Errorf("what is seeded was seeded again: %+v", planted)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	await(t, "ap has caught up, and all ipconfs name it", func() bool {
		return stateOf(t, d, "ap") == im.StateActive && handsOut(t, d, "eu", "ap") && handsOut(t, d, "us", "ap")
	})

	if got := pulled(t, d, "ap", "ann", chat, nil); !slices.Equal(got, want) {
		t.Errorf("ap has %d of %d messages of before, or in another order: %q", len(got), len(want), got)
	}
	if got := pulled(t, d, "ap", "cid", chat, old); !slices.Equal(got, want[history/2+1:]) {
		t.Errorf("who goes on with an old cursor gets %q", got)
	}
	for _, uid := range []im.UID{"ann", "bob", "cid"} {
		there, here := listed(t, d, "eu", uid), listed(t, d, "ap", uid)
		for c, row := range there {
			if !proto.Equal(row, here[c]) {
				t.Errorf("%s's list has %v in eu and %v in ap", uid, row, here[c])
			}
		}
		if len(there) != len(here) {
			t.Errorf("%s's list has %d rows in eu and %d in ap", uid, len(there), len(here))
		}
	}
	fresh := connect(t, d, "ann", "ap")
	if r, _ := fresh.Region(); r != "ap" {
		t.Errorf("ann is in %s", r)
	}
	await(t, "a client of ap shows everything", func() bool {
		var got []string
		for _, m := range fresh.Messages(chat) {
			got = append(got, m.Text)
		}
		return slices.Equal(got, want)
	})
	fresh.send(t, chat, "after")
	cid.next(t, "after")
	cid.send(t, chat, "answer")
	fresh.next(t, "answer")

	since := time.Now()
	await(t, "everybody goes on", func() bool { ok, _ := traffic.Flows(since, nil, nil); return ok })
	h, err := traffic.Settle(t.Context(), patience, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range checker.Check(h) {
		t.Error(v)
	}
	if len(h.Digests) != 3 {
		t.Errorf("%d regions were compared", len(h.Digests))
	}
	for _, l := range h.Logs {
		if l.In == "ap" && l.ID.Conversation == group {
			t.Fatal("ap has a copy of what was written before: the test shows nothing")
		}
	}
}

// asked is an imserver's answer.
func asked(t *testing.T, d *app.Dev, r im.Region, uid im.UID, method string, request, response proto.Message) {
	t.Helper()
	s, ok := d.Running()[string(r)+"/imserver"].(*imserver.Server)
	if !ok || s == nil {
		t.Fatalf("no imserver of %s runs", r)
	}
	body, err := wire.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	result, err := s.Call(patient(t), im.Call{Method: method, UID: uid, Body: body})
	if err == nil {
		err = wire.Unmarshal(result.Body, response)
	}
	if err != nil {
		t.Fatalf("%s of %s in %s: %v", method, uid, r, err)
	}
}

// pulled are the texts that a region has for a cursor.
func pulled(t *testing.T, d *app.Dev, r im.Region, uid im.UID, c im.Conversation, cursor im.Cursor) (texts []string) {
	t.Helper()
	at := cursor.String()
	for {
		page := new(wire.PullResponse)
		asked(t, d, r, uid, wire.MethodPull, &wire.PullRequest{Conversation: string(c), Cursor: at, Limit: 7}, page)
		for _, record := range page.Records {
			texts = append(texts, record.GetText().GetText())
		}
		if at = page.Cursor; !page.More {
			return texts
		}
	}
}

// listed are the rows of a user's list that do not change any more.
func listed(t *testing.T, d *app.Dev, r im.Region, uid im.UID) map[string]*wire.ListRow {
	t.Helper()
	page := new(wire.ListResponse)
	asked(t, d, r, uid, wire.MethodList, &wire.ListRequest{Limit: 100}, page)
	rows := map[string]*wire.ListRow{}
	for _, row := range page.Rows {
		rows[row.Conversation] = row
	}
	return rows
}

// TestRebuiltRegionIsSeeded: a region is lost when retention has cut the logs, so that its timelines cannot be derived anew. It
// returns under its next epoch, is seeded from another region, and has everything; the log of its former epoch, which no link
// brings, is in the snapshot whole.
func TestRebuiltRegionIsSeeded(t *testing.T) {
	data := t.TempDir()
	d := start(t, data, "eu", "us")
	chat := im.Direct("ann", "bob")
	ann, bob := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us")
	var want []string
	for n := range 30 {
		text := fmt.Sprintf("history %03d", n)
		want = append(want, text)
		from, to := ann, bob
		if n%2 == 1 {
			from, to = bob, ann
		}
		from.send(t, chat, text)
		to.next(t, text)
	}
	await(t, "both regions have everything", func() bool {
		behind, err := d.Behind(t.Context())
		return err == nil && len(behind) == 0 && equalDigests(t, d)
	})
	if err := d.Trim(patient(t)); err != nil {
		t.Fatal(err)
	}
	ann.Close()
	if err := d.Kill(t.Context(), console.Target{Region: "eu"}); err != nil {
		t.Fatal(err)
	}
	log := func(s string) { t.Log(s) }
	operator, err := d.Operator("us")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Lose(patient(t), app.LoseOrder{Region: "eu", Progress: log}); err != nil {
		t.Fatal(err)
	}
	if err := d.StartBackends("eu"); err != nil {
		t.Fatal(err)
	}
	if operator, err = d.OperatorAt("eu", 2); err != nil {
		t.Fatal(err)
	}
	await(t, "discovery knows that eu is down, and timelines are not derived from logs that begin late", func() bool {
		_, err := operator.Return(patient(t), false, log)
		if err == nil || !strings.Contains(err.Error(), "still runs") && !strings.Contains(err.Error(), "derived from logs alone") {
			t.Fatal(err)
		}
		return strings.Contains(err.Error(), "derived from logs alone")
	})
	if _, err := operator.Seed(patient(t), app.SeedOrder{From: "us", Progress: log}); err == nil || !strings.Contains(err.Error(), "region return") {
		t.Fatalf("a region that was lost is seeded: %v", err)
	}
	if _, err := operator.Return(patient(t), true, log); err != nil {
		t.Fatal(err)
	}
	await(t, "us has applied the seal, and eu is seeded", func() bool {
		_, err := operator.Seed(patient(t), app.SeedOrder{From: "us", Progress: log})
		if err != nil && !strings.Contains(err.Error(), "try again later") {
			t.Fatal(err)
		}
		return err == nil
	})
	d.Close()

	again, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu", "us"}, Delay: 20 * time.Millisecond, Listen: "127.0.0.1:0", Data: data, Epochs: map[im.Region]uint32{"eu": 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "both regions applied all logs and have equal views", func() bool {
		behind, err := again.Behind(t.Context())
		return err == nil && len(behind) == 0 && equalDigests(t, again)
	})
	if got := pulled(t, again, "eu", "ann", chat, nil); !slices.Equal(got, want) {
		t.Errorf("eu has %q", got)
	}
	ann, bob = connect(t, again, "ann", "eu"), connect(t, again, "bob", "us")
	if ack := ann.send(t, chat, "back"); ack.Origin != "eu.2" {
		t.Errorf("eu takes messages as %q", ack.Origin)
	}
	bob.next(t, "back")
	bob.send(t, chat, "welcome")
	ann.next(t, "welcome")
}
