package ipconf

import (
	"fmt"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// TestRegionsComeWhileItRuns: a region that is new is handed out by an ipconf that runs, wherever its name stands among the
// others, once its state lets it.
func TestRegionsComeWhileItRuns(t *testing.T) {
	s := newSite()
	s.add("eu", "e1", im.Load{Capacity: 100_000})
	s.add("us", "u1", im.Load{Capacity: 100_000})
	s.add("ap", "a1", im.Load{Capacity: 100_000})
	s.say("ap", im.StateJoining)
	p := start(t, s)
	eventually(t, p, "?region=eu", "e1 u1")
	if err := p.Follow([]im.Region{"ap", "eu", "us"}); err != nil {
		t.Fatal(err)
	}
	s.change(func() { s.say("ap", im.StateActive) })
	e := eventually(t, p, "?region=ap", "a1 e1 u1")
	if e.Gateways[0].Region != "ap" {
		t.Errorf("who asks for ap gets %s first", e.Gateways[0].Region)
	}
	if err := p.Follow([]im.Region{"eu"}); err != nil { // what was known stays
		t.Fatal(err)
	}
	eventually(t, p, "?region=ap", "a1 e1 u1")
	var many []im.Region
	for n := range rank.MaxRegions {
		many = append(many, im.Region(fmt.Sprint("r", n)))
	}
	if err := p.Follow(many); err == nil {
		t.Error("more regions than there are places are followed")
	}
}
