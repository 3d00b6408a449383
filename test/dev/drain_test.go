package dev

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
)

// TestRegionDrained: users of eu write while it is drained. They move to us and lose nothing; eu is drained only once us
// holds its log; newcomers go to us, until the drain is taken back.
func TestRegionDrained(t *testing.T) {
	d := startWith(t, app.DevConfig{
		Regions: []string{"eu", "us"}, Configure: func(c *config.Config) {
			c.IPConf.DrainOver, c.IPConf.ReturnOver, c.IPConf.TTL = time.Second, time.Second, time.Second
		},
	})
	ann, bob := connect(t, d, "ann", "eu"), connect(t, d, "bob", "us")
	chat := im.Direct("ann", "bob")
	ann.send(t, chat, "before")
	bob.next(t, "before")
	operator, err := d.Operator("eu")
	if err != nil {
		t.Fatal(err)
	}

	// us cannot hear eu: it is not drained, though nobody is there.
	if err := d.Cut(t.Context(), "eu", "us"); err != nil {
		t.Fatal(err)
	}
	ann.send(t, chat, "nobody but eu has this")
	short, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = operator.Drain(short, "eu", func(line string) {
		t.Log(line)
		if strings.Contains(line, "us lacks") {
			cancel()
		}
	})
	if err == nil || !strings.Contains(err.Error(), "us lacks") || !strings.Contains(err.Error(), "stays draining") {
		t.Fatalf("us lacks records of eu, and the drain ends with %v", err)
	}
	if s := stateOf(t, d, "eu"); s != im.StateDraining {
		t.Fatalf("eu is %q", s)
	}
	if err := d.Heal(t.Context(), "eu", "us"); err != nil {
		t.Fatal(err)
	}
	if operator, err = d.Operator("us"); err != nil {
		t.Fatal(err)
	}
	if err := operator.Drain(patient(t), "eu", func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(t, d, "eu"); s != im.StateDrained {
		t.Fatalf("eu is %q", s)
	}
	bob.next(t, "nobody but eu has this")
	// A client that lost its socket may come back with a list of before: it is told again to leave.
	after := 0
	await(t, "us takes what ann says", func() bool {
		after++
		text := fmt.Sprint("after ", after)
		ack := ann.send(t, chat, text)
		bob.next(t, text)
		return ack.Origin == "us"
	})
	if err := operator.Undrain(patient(t), "eu", func(string) {}); err == nil || !strings.Contains(err.Error(), "antipode region undrain eu in it") {
		t.Errorf("us cannot tell how far eu is: %v", err)
	}
	if operator, err = d.Operator("eu"); err != nil {
		t.Fatal(err)
	}

	if err := operator.Undrain(patient(t), "eu", func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(t, d, "eu"); s != im.StateActive {
		t.Errorf("eu is %q", s)
	}
}

// minute is how long an order may take.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func stateOf(t *testing.T, d *app.Dev, r im.Region) im.State {
	t.Helper()
	states, err := d.RegionStates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.Region == r {
			return s.State
		}
	}
	return ""
}
