package app

import (
	"maps"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// A cluster is up when what is to take clients does. A region that is drained, or came back and waits to be activated, is not waited
// for; one that is new, and says of itself that it joins, is.
func TestClosedRegions(t *testing.T) {
	at := im.Stamp(1 << 40)
	states := map[im.Region]im.RegionState{
		"eu": {State: im.StateActive, Stamp: stampJoined},
		"us": {State: im.StateActive, Stamp: at},
		"ap": {State: im.StateJoining, Stamp: at},
		"sa": {State: im.StateJoining, Stamp: stampJoining},
		"af": {State: im.StateDrained, Stamp: at},
		"me": {State: im.StateDraining, Stamp: at},
	}
	want := map[im.Region]im.State{"ap": im.StateJoining, "af": im.StateDrained, "me": im.StateDraining}
	if got := closed(states); !maps.Equal(got, want) {
		t.Errorf("closed are %v, want %v", got, want)
	}
}
