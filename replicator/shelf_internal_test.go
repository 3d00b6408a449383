package replicator

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func always(int, int, int) bool { return true }

// TestACrowdDelaysNoOtherLane: a record of a quiet lane goes with the next message, however much waits in another.
func TestACrowdDelaysNoOtherLane(t *testing.T) {
	const most = 512 << 10
	s := newShelf(3)
	var crowd []item
	for i := range 100 {
		crowd = append(crowd, item{lane: 2, part: i, records: 1, bytes: 100_000})
	}
	if full := s.put(crowd); len(full) != len(crowd) {
		t.Fatalf("%v are not read on; 10 MB wait in lane 2", full)
	}
	for round := range 10 {
		s.put([]item{{lane: 0, part: 1000 + round, records: 1, bytes: 300}})
		items, _ := s.take(most, always)
		found, size := false, 0
		for _, it := range items {
			found = found || it.part == 1000+round
			size += it.bytes
		}
		if !found {
			t.Fatalf("round %d: the record of lane 0 waits behind lane 2", round)
		}
		if size < most/2 || size > most {
			t.Fatalf("round %d: a message of %d bytes, of %d at most, and more waits", round, size, most)
		}
	}
}

// TestLanesShareByBytes: lanes that always have something get the same, whatever the size of what they have.
func TestLanesShareByBytes(t *testing.T) {
	s := newShelf(2)
	var sent [2]int
	for range 200 {
		for lane, size := range []int{600_000, 500} {
			for s.lanes[lane].bytes < shelfBytes {
				s.put([]item{{lane: lane, records: 1, bytes: size}})
			}
		}
		items, _ := s.take(512<<10, always)
		if len(items) == 0 {
			t.Fatal("nothing goes though both lanes have something")
		}
		for _, it := range items {
			sent[it.lane] += it.bytes
		}
	}
	if ratio := float64(sent[0]) / float64(sent[1]); ratio < 0.9 || ratio > 1.1 {
		t.Errorf("%d bytes of large and %d of small records went", sent[0], sent[1])
	}
}

// TestACrowdedPartitionDelaysNoOther: a record of a quiet partition goes with the next message, however much waits of another in its
// lane, and it is read on while that is not.
func TestACrowdedPartitionDelaysNoOther(t *testing.T) {
	const most = 512 << 10
	s := newShelf(1)
	var crowd []item
	for range 100 {
		crowd = append(crowd, item{part: 7, records: 1, bytes: 100_000})
	}
	if full := s.put(crowd); !slices.Equal(full, []int{7}) {
		t.Fatalf("%v are not read on; 10 MB wait of part 7", full)
	}
	for round := range 10 {
		if full := s.put([]item{{part: round % 3, records: 1, bytes: 300}}); slices.Contains(full, round%3) {
			t.Fatalf("round %d: %v are not read on", round, full)
		}
		items, _ := s.take(most, always)
		size := 0
		for _, it := range items {
			size += it.bytes
		}
		if !slices.ContainsFunc(items, func(it item) bool { return it.part == round%3 }) {
			t.Fatalf("round %d: the record of part %d waits behind part 7", round, round%3)
		}
		if size < most/2 || size > most {
			t.Fatalf("round %d: a message of %d bytes, of %d at most, and more waits", round, size, most)
		}
	}
}

// TestPartitionsShareByBytes: those of a lane that always have something get the same, whatever the size of what they have. No more of
// them waits than the lane may hold, and a piece of each.
func TestPartitionsShareByBytes(t *testing.T) {
	s := newShelf(1)
	sizes := []int{600_000, 500, 40_000}
	var sent [3]int
	var stopped [3]bool
	for range 2000 {
		for part, size := range sizes {
			for !stopped[part] && (s.lanes[0].queues[part] == nil || s.lanes[0].queues[part].bytes < 700_000) {
				for _, p := range s.put([]item{{part: part, records: 1, bytes: size}}) {
					stopped[p] = true
				}
			}
		}
		if most := shelfBytes + 3*600_000; s.lanes[0].bytes > most {
			t.Fatalf("%d bytes wait, of %d at most", s.lanes[0].bytes, most)
		}
		items, roomy := s.take(64<<10, always)
		if len(items) == 0 {
			t.Fatal("nothing goes though all have something")
		}
		if len(roomy) > 0 {
			stopped = [3]bool{}
		}
		for _, it := range items {
			sent[it.part] += it.bytes
		}
	}
	for part, size := range sizes {
		if ratio := float64(sent[part]) / float64(sent[0]); ratio < 0.9 || ratio > 1.1 {
			t.Errorf("%d bytes went in pieces of %d, %d in pieces of %d", sent[part], size, sent[0], sizes[0])
		}
	}
}

// TestFullLanesAreReadOn: what was stopped of a lane that was full is read on when half of it is gone, sent or purged.
func TestFullLanesAreReadOn(t *testing.T) {
	fill := func() *shelf {
		s := newShelf(1)
		for i := range 9 {
			full := s.put([]item{{part: i, records: 1, bytes: 256 << 10}})
			if want := i == 8; (len(full) == 9) != want || !want && len(full) > 0 {
				t.Fatalf("full after %d bytes: %v", (i+1)*256<<10, full)
			}
		}
		return s
	}
	s := fill()
	for taken := 1; ; taken++ {
		_, roomy := s.take(256<<10, always)
		if len(roomy) > 0 {
			if taken != 5 {
				t.Errorf("it is read on after %d of 9", taken)
			}
			break
		}
		if taken > 9 {
			t.Fatal("it is never read on")
		}
	}
	s = fill()
	for i := range 9 {
		if roomy := s.purge(0, i); roomy != (i == 4) {
			t.Errorf("after %d of 9 were purged: %v", i+1, roomy)
		}
	}
	if items, _ := s.take(1<<20, always); len(items) > 0 {
		t.Errorf("%d items go that were purged", len(items))
	}
}

// TestALaneTakesHalfOfTheWindow: one whose bytes are not given back leaves room for the others.
func TestALaneTakesHalfOfTheWindow(t *testing.T) {
	var w sendWindow
	w.open(&wire.LinkOpen{WindowBytes: 1 << 20})
	w.lanes = make([]int, 2)
	w.credit(&wire.LinkCredit{Topics: []uint64{0, 0}}) // the receiver tells
	for sent := 0; w.may(1, 64<<10, 64<<10); sent++ {
		if sent > 8 {
			t.Fatal("one lane takes more than half")
		}
		w.take(1, 64<<10)
	}
	if !w.may(0, 64<<10, 64<<10) {
		t.Fatal("nothing is left for the other lane")
	}
	w.credit(&wire.LinkCredit{Bytes: 64 << 10, Topics: []uint64{0, 64 << 10}})
	if !w.may(1, 64<<10, 64<<10) {
		t.Error("credit for a lane does not help it")
	}
	w.take(0, 2<<20)
	if w.may(0, 1, 1) || w.may(1, 1, 1) {
		t.Error("more goes than the window holds")
	}
	w.credit(&wire.LinkCredit{More: 4 << 20})
	if !w.may(1, 1, 1) {
		t.Error("a window that grew lets nothing more through")
	}
}

// TestCaps: a link carries what its cap says, at the time of day at which it holds.
func TestCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// It is midnight UTC, 2000-01-01.
		night := Cap{Peer: "us", From: 22 * time.Hour, To: time.Minute, BytesPerSecond: 1000}
		th := &throttle{caps: []Cap{night, {Peer: "us", From: time.Hour, To: 2 * time.Hour, BytesPerSecond: 1}}, now: time.Now}
		began := time.Now()
		sent := 0
		for time.Since(began) < 30*time.Second {
			if err := th.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			th.spend(500)
			sent += 500
		}
		if sent < 29_000 || sent > 32_000 {
			t.Errorf("%d bytes in 30 s at 1,000 a second", sent)
		}
		if !th.capped() {
			t.Error("the cap does not hold at midnight")
		}
		th.spend(10_000_000) // hours of debt, which the end of the cap forgives
		if err := th.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if at := time.Since(began); at < time.Minute-time.Second || at > time.Minute+2*time.Second {
			t.Errorf("a link in debt goes on after %v; its cap ends after 1 minute", at)
		}
		if th.capped() {
			t.Error("the cap holds at noon")
		}
		time.Sleep(time.Hour)
		th.spend(1000)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := th.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the cap of the next hour: %v", err)
		}
	})
}

// TestTheWindowGrows until one lane's share is twice what the link carries in a round trip, and no further than configured.
func TestTheWindowGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &receiving{r: &Replicator{cfg: Config{WindowBytes: 32 << 20}}}
		s := &session{c: c, window: firstWindow, topics: make([]uint64, 1)}
		for range 10 {
			s.meter.add(time.Now(), 10<<20)
			time.Sleep(meterSlot)
		}
		s.grow(time.Millisecond)
		if s.more != 0 {
			t.Errorf("over 1 ms the window grows by %d", s.more)
		}
		s.grow(40 * time.Millisecond) // 100 MiB/s
		if want := 16 << 20; s.window < want-1<<20 || s.window > want+1<<20 {
			t.Errorf("over 40 ms the window is %d, want about %d", s.window, want)
		}
		s.grow(time.Second)
		if s.window != 32<<20 || s.more != s.window-firstWindow {
			t.Errorf("the window is %d after it grew by %d", s.window, s.more)
		}
	})
}

// TestOneLaneFillsALongLink: over 80 ms round trip, where one lane has all there is to ship, the copy gets as much as it can append.
func TestOneLaneFillsALongLink(t *testing.T) {
	const (
		oneWay  = 40 * time.Millisecond
		tick    = time.Millisecond
		appends = 100 << 10 // bytes in a tick
		message = 64 << 10
	)
	type credit struct {
		at time.Time
		m  *wire.LinkCredit
	}
	synctest.Test(t, func(t *testing.T) {
		c := &receiving{r: &Replicator{cfg: Config{WindowBytes: 32 << 20}}}
		s := &session{c: c, window: firstWindow, trip: 2 * oneWay, topics: make([]uint64, 1), dirty: make(chan struct{}, 1)}
		var w sendWindow
		w.open(&wire.LinkOpen{WindowBytes: 32 << 20, FirstWindowBytes: firstWindow})
		w.lanes, w.byBid = make([]int, 1), true
		lane := &part{c: c}
		var onWay []time.Time // when each message arrives
		var back []credit
		waiting, appended, from := 0, 0, 0
		began := time.Now()
		for time.Since(began) < 3*time.Second {
			if time.Since(began) == 2*time.Second {
				from = appended
			}
			for w.may(0, message, message) {
				w.take(0, message)
				onWay = append(onWay, time.Now().Add(oneWay))
			}
			for len(onWay) > 0 && !onWay[0].After(time.Now()) {
				onWay = onWay[1:]
				if !s.receive(message) {
					t.Fatal("the sender exceeds the window")
				}
				s.carried(time.Now(), message)
				waiting += message
			}
			n := min(waiting, appends)
			waiting -= n
			appended += n
			s.credit(lane, n)
			select {
			case <-s.dirty:
				for _, m := range s.news() {
					back = append(back, credit{time.Now().Add(oneWay), m.GetCredit()})
				}
			default:
			}
			for len(back) > 0 && !back[0].at.After(time.Now()) {
				w.credit(back[0].m)
				back = back[1:]
			}
			time.Sleep(tick) // on synctest's clock
		}
		if got, can := appended-from, appends*int(time.Second/tick); got < can*95/100 {
			t.Errorf("%d bytes were appended in the third second, of %d that could be", got, can)
		}
	})
}

// gaveUp is a reader that has something to say when it is polled.
type gaveUp struct {
	Reader
	says func(ctx context.Context) error
}

func (r gaveUp) Poll(ctx context.Context) ([]im.Batch, error) { return nil, r.says(ctx) }

// TestAnInterruptedPollKeepsItsError: a reader tells once that it gave a partition up, be it while something else is asked for.
func TestAnInterruptedPollKeepsItsError(t *testing.T) {
	l := &sending{}
	l.readOn([]int{0}) // interrupts the next poll at once
	lost := errors.New("retention passed it")
	if _, err := l.poll(t.Context(), gaveUp{says: func(context.Context) error { return lost }}); !errors.Is(err, lost) {
		t.Errorf("the reader gave a partition up, and the poll says %v", err)
	}
	if _, err := l.poll(t.Context(), gaveUp{says: context.Context.Err}); err != nil {
		t.Errorf("it was interrupted, and says %v", err)
	}
}
