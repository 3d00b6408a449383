package replicator

import (
	"time"

	"github.com/antipode-im/antipode/im"
)

// Status is a snapshot of a replicator for consoles and doctors.
type Status struct {
	Region im.Region
	In     []LinkIn  // links over which this region receives a peer's log
	Out    []LinkOut // links over which this region sends its own
}

// LinkIn is the receiver's end of a link.
type LinkIn struct {
	Peer       im.Region
	Origin     im.Origin
	Via        im.Region // from whose copy the log comes; empty: from its origin's region
	StandsIn   bool      // Via stands in for a way that does not work; false: it is configured
	Open       bool
	Since      time.Time // when it opened or closed
	Error      string    // why it is not open
	Refused    []Refusal
	Lag        []Lag
	Records    uint64        // appended to copies since start
	Bytes      uint64        // of entries received since start, before compression
	Reconnects uint64        // times it was opened again
	Clock      time.Duration // how far the peer's clock is ahead of the own, to half a round trip
}

// LinkOut is the sender's end of a link.
type LinkOut struct {
	Peer    im.Region
	Via     im.Region // from whose copy the peer takes the log; empty: from here, or not at all
	Open    bool
	Since   time.Time
	Behind  int64 // records of the own log that the peer does not hold yet, as far as it is known what it holds
	Unknown int   // partitions of which it is not: the peer did not ask for them since this replicator started
	Refused []Refusal
	Records uint64 // sent since start
	Bytes   uint64 // sent since start, before compression
	Dropped uint64 // notifies
}

// Refusal is a partition that is not shipped, and why.
type Refusal struct {
	Partition im.Partition
	Reason    string
	At        im.Region // to which it is not shipped: the receiver's, or one in between
}

// refusedAt counts the partitions that are not shipped to a region.
func (l *LinkIn) refusedAt(region im.Region) (n int) {
	for i := range l.Refused {
		if l.Refused[i].At == region {
			n++
		}
	}
	return n
}

// Lag is how far the copies of one lane are behind the origin's log. Lane is direct, group, super, read or route.
type Lag struct {
	Lane    string
	Records int64
	Bytes   int64 // approximate: records times their mean size on this link
	Seconds float64
}
