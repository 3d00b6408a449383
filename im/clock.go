package im

import (
	"fmt"
	"time"
)

// Stamp is a hybrid logical clock reading: 48 bits of Unix milliseconds above a 16-bit counter. Stamps order records of
// one conversation across regions; the counter orders those of one millisecond.
//
// Source: Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014), in the compact form of section 6.2.
type Stamp uint64

const stampCounterBits = 16

// StampAt returns the first stamp of a millisecond. A time outside of the 48 bits, before 1970 or after the year 10889,
// gets the nearest stamp.
func StampAt(t time.Time) Stamp {
	ms := min(max(t.UnixMilli(), 0), 1<<48-1)
	return Stamp(uint64(ms) << stampCounterBits)
}

// Millis is the Unix time in milliseconds of the stamp.
func (s Stamp) Millis() int64 { return int64(s >> stampCounterBits) }

// Counter orders the stamps of one millisecond.
func (s Stamp) Counter() uint16 { return uint16(s) }

// Time is the stamp's millisecond as a time.
func (s Stamp) Time() time.Time { return time.UnixMilli(s.Millis()) }

// MaxSkew is how far ahead of an imserver's own clock a stamp that a client has seen may be.
const MaxSkew = 5 * time.Second

// Clock gives stamps: max(clock, highest stamp seen) + 1. It is a value without a clock of its own: the caller passes
// the time. It is not safe for concurrent use.
type Clock struct {
	high Stamp // the highest stamp given from this process's own time; never raised by what a client claims
}

// Next returns the stamp for a record accepted at now by a sender who has seen the stamp seen. The stamp is greater than
// seen (I4). A seen stamp more than skew ahead of now is refused with CodeStampAhead, so that one bad client cannot drag
// a conversation into the future.
func (c *Clock) Next(now time.Time, seen Stamp, skew time.Duration) (Stamp, error) {
	if limit := StampAt(now.Add(skew)); seen > limit {
		return 0, Errorf(CodeStampAhead, "the stamp seen is %d ms ahead of this region's clock; at most %d ms are allowed",
			seen.Millis()-now.UnixMilli(), skew.Milliseconds())
	}
	c.high = max(c.high+1, StampAt(now))
	return max(c.high, seen+1), nil
}

// Raise makes the clock continue above a stamp that this process, or its predecessor, is known to have given.
func (c *Clock) Raise(s Stamp) { c.high = max(c.high, s) }

// String shows the stamp as a UTC time with its counter.
func (s Stamp) String() string {
	return fmt.Sprintf("%s+%d", s.Time().UTC().Format("2006-01-02T15:04:05.000Z"), s.Counter())
}
