package dev

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/regions"
)

// TestWhatRetentionPassedIsRepaired: us hears nothing of eu for longer than eu keeps its log. antipode link repair brings what is
// missing from ap's copy. Then retention passes that, too: the repair refuses and says to take a snapshot, which makes us whole,
// and shows to who is connected. antipode verify proves it each time.
func TestWhatRetentionPassedIsRepaired(t *testing.T) {
	d := startWith(t, app.DevConfig{
		Regions: []string{"eu", "us", "ap"},
		Configure: func(c *config.Config) { // no client pulls by itself, and those of a region are told soon that they are to
			c.IPConf.Policy.FallbackPull, c.IPConf.DrainOver = time.Hour, 2*time.Second
		},
	})
	chat := im.Direct("ann", "bob")
	ann, bob := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us")
	operator, err := d.Operator("ap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	log := func(line string) { t.Log(line) }
	repair := func(dry bool) (regions.Repaired, error) {
		return operator.Repair(patient(t), app.RepairOrder{From: "eu", To: "us", DryRun: dry, Progress: log})
	}
	verified := func(when string) {
		t.Helper()
		await(t, "the copies of us equal the log of eu "+when, func() bool {
			return operator.Verify(patient(t), app.VerifyOrder{From: "eu", To: "us", Told: log}) == nil
		})
	}
	var want []string
	missed := func(in ...im.Region) { // us misses messages that only timelines have in some regions
		t.Helper()
		if err := d.Cut(t.Context(), "eu", "us"); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			text := fmt.Sprintf("message %03d", len(want))
			want = append(want, text)
			ann.send(t, chat, text)
		}
		await(t, "eu and ap have applied them", func() bool {
			return slices.Equal(pulled(t, d, "eu", "ann", chat, nil), want) && slices.Equal(pulled(t, d, "ap", "ann", chat, nil), want)
		})
		for _, r := range in {
			if err := d.TrimApplied(patient(t), r, "eu"); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Heal(t.Context(), "eu", "us"); err != nil {
			t.Fatal(err)
		}
		await(t, "the link refuses what it cannot go on with", func() bool {
			done, _ := repair(true)
			return slices.ContainsFunc(done.Plans, func(p regions.Plan) bool { return strings.Contains(p.Wrong, "retention has removed") })
		})
	}

	ann.send(t, chat, "hello")
	bob.next(t, "hello")
	want = append(want, "hello")
	verified("from the start")
	if done, err := repair(false); err != nil || len(done.Plans) != 0 {
		t.Fatalf("nothing is to be repaired: %+v, %v", done, err)
	}

	missed("eu")
	done, err := repair(false)
	if err != nil || done.Fetched == 0 || done.Compared == 0 {
		t.Fatalf("%+v, %v; want it fetched from ap, and compared", done, err)
	}
	t.Log(app.DescribeRepaired(done))
	bob.next(t, want[len(want)-1])
	verified("after what was missing came from ap")

	missed("eu", "ap")
	done, err = repair(false)
	const remedy = "antipode region seed us --from eu"
	if err == nil || !slices.ContainsFunc(done.Plans, func(p regions.Plan) bool { return p.Bring == nil && strings.Contains(p.Refusal, remedy) }) {
		t.Fatalf("%+v, %v; want it refused with %q", done.Plans, err, remedy)
	}
	if err := d.KillIMServer("us"); err != nil {
		t.Fatal(err)
	}
	if err := d.EmptyTimelines(patient(t), "us"); err != nil {
		t.Fatal(err)
	}
	there, err := d.Operator("us")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(there.Close)
	await(t, "us is seeded", func() bool { // once discovery knows that its imserver is down
		planted, err := there.Seed(patient(t), app.SeedOrder{From: "eu", Progress: log})
		if err != nil && !strings.Contains(err.Error(), "stop it first") {
			t.Fatal(err)
		}
		return err == nil && planted.Records > 0
	})
	// What a link refuses is asked for again once a minute: nobody waits for that.
	if err := errors.Join(d.StartIMServer("us"), d.RestartReplicator("us")); err != nil {
		t.Fatal(err)
	}
	if err := there.Activate(patient(t), log); err != nil {
		t.Fatal(err)
	}
	bob.next(t, want[len(want)-1]) // who was connected all the time is told that us has more than it pushed
	ann.send(t, chat, "after")
	bob.next(t, "after")
	want = append(want, "after")
	await(t, "us has everything, once and in order", func() bool { return slices.Equal(pulled(t, d, "us", "bob", chat, nil), want) })
	await(t, "nothing is left to be repaired", func() bool {
		done, err := repair(false)
		return err == nil && len(done.Plans) == 0
	})
	verified("after it was seeded")
	await(t, "all regions hold the same", func() bool { return equalDigests(t, d) })
}
