package im

import (
	"cmp"
	"fmt"
	"slices"
)

// State is what a region is at present, by an operator's word. Region states live in every region's discovery.
type State string

// The states of a region, in the order in which they settle a tie: the one that hands out less wins.
const (
	StateActive   State = "active"   // takes clients
	StateJoining  State = "joining"  // being built: follows the logs, takes no clients yet
	StateDraining State = "draining" // takes no newcomers; its clients are moving away
	StateDrained  State = "drained"  // has no clients; follows the logs
	StateDead     State = "dead"     // lost, or declared so: its routes count for nothing
	StateRemoved  State = "removed"  // dead, and not expected back: nobody links to it
)

var states = [...]State{StateActive, StateJoining, StateDraining, StateDrained, StateDead, StateRemoved}

// Gone tells whether a region in that state takes no part any more: its log is sealed, and its routes count for nothing.
func (s State) Gone() bool { return s == StateDead || s == StateRemoved }

// ParseState checks that s is a state of a region.
func ParseState(s string) (State, error) {
	if !slices.Contains(states[:], State(s)) {
		return "", fmt.Errorf("region state %q: want one of active, joining, draining, drained, dead and removed", s)
	}
	return State(s), nil
}

// RegionState is a region's state and when it was said. A region that nobody said anything about is active.
type RegionState struct {
	Region Region
	State  State
	Stamp  Stamp
}

// Compare orders what was said of one region: the greater is the one that holds. The highest stamp wins; a tie goes to
// the later in the list of states, so that every reader settles it alike.
func (s RegionState) Compare(t RegionState) int {
	return cmp.Or(cmp.Compare(s.Stamp, t.Stamp), cmp.Compare(slices.Index(states[:], s.State), slices.Index(states[:], t.State)))
}
