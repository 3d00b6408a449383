package dev

import (
	"fmt"
	"slices"
	"testing"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
)

// TestGapFromOriginWhileOwnRegionLags: nothing is applied in eu, to which a message of us came by no notify. The next notify tells
// ann, who is in eu, that she lacks it, and she has it from us, long before her own region has it.
func TestGapFromOriginWhileOwnRegionLags(t *testing.T) {
	d := start(t, t.TempDir(), "eu", "us")
	chat := im.Direct("ann", "cid")
	ann, cid := connect(t, d, "ann", "eu"), connect(t, d, "cid", "us")
	cid.send(t, chat, "hello")
	ann.next(t, "hello")
	if err := d.Cut(t.Context(), "us", "eu"); err != nil {
		t.Fatal(err)
	}
	cid.send(t, chat, "missed")
	if err := d.KillIMServer("eu"); err != nil {
		t.Fatal(err)
	}
	if err := d.Heal(t.Context(), "us", "eu"); err != nil {
		t.Fatal(err)
	}
	later, looks := 0, 0
	await(t, "ann shows what she missed, and eu has not applied it", func() bool {
		if looks++; looks%10 == 1 { // until the link is open, no notify comes
			later++
			cid.send(t, chat, fmt.Sprint("later ", later))
		}
		return slices.ContainsFunc(ann.Messages(chat), func(m client.Message) bool { return m.Text == "missed" })
	})
	if err := d.StartIMServer("eu"); err != nil {
		t.Fatal(err)
	}
	want := []string{"hello", "missed"}
	for n := range later {
		want = append(want, fmt.Sprint("later ", n+1))
	}
	await(t, "eu has applied it too, and ann shows everything once and in order", func() bool {
		var got []string
		for _, m := range ann.Messages(chat) {
			got = append(got, m.Text)
		}
		digests, err := d.Digests(t.Context()) // of an imserver that has started
		return err == nil && len(checker.Check(&checker.History{Digests: digests})) == 0 && slices.Equal(got, want)
	})
}
