package app

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// TestHeldByTheOnlyPeer: of two regions, one that is to be active waits for all that the other's own log holds, of which nobody has a
// copy that could be asked.
func TestHeldByTheOnlyPeer(t *testing.T) {
	d, err := NewDev(DevConfig{Regions: []string{"eu", "us"}, Listen: "127.0.0.1:0", Data: t.TempDir(), Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	operator, err := d.Operator("eu")
	if err != nil {
		t.Fatal(err)
	}
	want, err := operator.heldElsewhere(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	for n := range operator.site.Partitions {
		for _, topic := range []string{im.MsgTopic("us", im.LaneDirect), im.MsgTopic("us", im.LaneGroup), im.MsgTopic("us", im.LaneSuper), im.ReadTopic("us")} {
			if p := (im.Partition{Topic: topic, Number: n}); want[p] == 0 {
				t.Errorf("%v is not waited for, though its record 0 names it", p)
			}
		}
	}
	for p := range want {
		if family, _, _ := im.ParseTopic(p.Topic); family == im.FamilyRoute {
			t.Errorf("%v is waited for: routes are not derived into timelines", p)
		}
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		missing, err := operator.missing(t.Context(), want)
		if err == nil && missing == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%d records are missing still, %v", missing, err)
		}
	}
}
