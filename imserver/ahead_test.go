package imserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

var direct = im.Partition{Topic: "msg.eu.direct"}

func numbered(n int64) im.Entry { return im.Entry{Key: fmt.Append(nil, n)} }

func offsets(entries []im.Entry) (list []int64) {
	for _, e := range entries {
		list = append(list, e.Offset)
	}
	return list
}

// Whatever the order in which appends are heard of, entries are given at their offsets, none twice, and none past a hole.
func TestAhead(t *testing.T) {
	a := newAhead(newFakeLog(), 1)
	a.keep(direct, 5, []im.Entry{numbered(5)})
	if got := a.next(direct, 5, 10); got != nil || a.kept.Load() != 0 {
		t.Fatalf("a partition that nobody follows: %v", offsets(got))
	}
	a.follow(0, []im.Partition{direct})
	for _, first := range []int64{7, 5, 9, 6, 6, 3} {
		a.keep(direct, first, []im.Entry{numbered(first)})
	}
	a.keep(direct, 10, []im.Entry{numbered(10), numbered(11)})
	select {
	case <-a.wake[0]:
	default:
		t.Error("nobody is woken")
	}
	if got := a.next(direct, 4, 10); len(got) > 0 {
		t.Errorf("4 is not there, got %v", offsets(got))
	}
	if got := offsets(a.next(direct, 5, 2)); !slices.Equal(got, []int64{5, 6}) {
		t.Errorf("two from 5: %v", got)
	}
	if got := offsets(a.next(direct, 7, 10)); !slices.Equal(got, []int64{7}) {
		t.Errorf("from 7, without 8: %v", got)
	}
	if got := offsets(a.next(direct, 10, 10)); !slices.Equal(got, []int64{10, 11}) || a.kept.Load() != 0 {
		t.Errorf("once the reader brought 8 and 9: %v, %d are left", got, a.kept.Load())
	}
	for n := range int64(aheadEntries + 10) {
		a.keep(direct, 100+n, []im.Entry{numbered(n)})
	}
	a.keep(direct, 5000, []im.Entry{{Value: make([]byte, aheadBytes)}})
	if kept := a.kept.Load(); kept != aheadEntries {
		t.Errorf("%d entries are kept", kept)
	}
	a.follow(0, nil)
	if kept := a.kept.Load(); kept != 0 || len(a.followed) != 0 {
		t.Errorf("of what went to another owner %d are left", kept)
	}
}

// deafReader brings nothing until it is let go.
type deafReader struct {
	Reader
	hears chan struct{}
}

func (r deafReader) Poll(ctx context.Context) ([]im.Batch, error) {
	select {
	case <-r.hears:
		return r.Reader.Poll(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What an instance appended is applied and delivered before it is read back, and not again when it is.
func TestAppliesWhatItAppended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store, router := newFakeLog(), newFakeStore(1), &fakeRouter{}
		log.create("eu", 1)
		// The topics' names are applied already, as in a region that runs.
		var parts []view.Part
		for _, topic := range im.Topics("eu") {
			if p := (im.Partition{Topic: topic}); topic != im.RouteTopic("eu") {
				parts = append(parts, view.Part{Partition: p, To: view.Position{Position: im.Position{Partition: p, Next: 1, Local: 1, Log: logID("eu")}}})
			}
		}
		if err := store.view.Apply(parts); err != nil {
			t.Fatal(err)
		}
		cfg, deps := minimal(log, store, newFakeOwnership(0))
		cfg.Heartbeat = time.Hour
		hears := make(chan struct{})
		deps.NewReader = func(from map[im.Partition]int64) Reader { return deafReader{log.newReader(from), hears} }
		deps.Deliver, deps.Logger = router, testLogger(t)
		s, end := running(t, cfg, deps)
		synctest.Wait()
		send := func(text string) {
			t.Helper()
			body, err := wire.Marshal(&wire.SubmitRequest{
				Conversation: "d:ann:bob", ClientId: im.NewUUID(time.Now()).String(),
				Content: &wire.SubmitText{Text: &wire.Text{Text: text}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Call(t.Context(), im.Call{Method: "submit", UID: "ann", Key: "d:ann:bob", Body: body}); err != nil {
				t.Fatal(err)
			}
		}
		applied := func() uint64 {
			store.mu.Lock()
			defer store.mu.Unlock()
			return store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "eu"})
		}

		send("one")
		pass(100 * time.Millisecond)
		if n := len(router.take()); n != 1 || applied() != 1 {
			t.Errorf("%d deliveries, seq %d: it waits to be read back", n, applied())
		}
		// Of what somebody else appended it knows only by reading, and of what came after it, too.
		log.put(direct, wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "bob"}, Kind: im.KindMessage, Version: 1}))
		send("three")
		pass(100 * time.Millisecond)
		if n := len(router.take()); n != 0 || applied() != 1 {
			t.Errorf("%d deliveries, seq %d: it went past a record that it does not know", n, applied())
		}
		close(hears)
		pass(100 * time.Millisecond)
		if n := len(router.take()); n != 2 || applied() != 3 {
			t.Errorf("%d deliveries, seq %d, want two of each", n, applied())
		}
		send("four")
		pass(100 * time.Millisecond)
		if n := len(router.take()); n != 1 || applied() != 4 || s.ahead.kept.Load() != 0 {
			t.Errorf("%d deliveries, seq %d, %d kept", n, applied(), s.ahead.kept.Load())
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// lossyLog loses every third answer, and lets others append in between.
type lossyLog struct {
	*fakeLog
	dice *rand.Rand
}

func (l lossyLog) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	if l.dice.IntN(4) == 0 {
		l.put(p, numbered(-1))
	}
	first, err := l.fakeLog.Append(ctx, p, entries)
	if l.dice.IntN(3) == 0 {
		return 0, errors.Join(err, errDown)
	}
	return first, err
}

// However answers are lost and others append, ahead and reader together give the log, in order.
func TestAheadIsTheLog(t *testing.T) {
	for seed := range uint64(200) {
		dice := rand.New(rand.NewPCG(seed, 1))
		log := lossyLog{newFakeLog(), dice}
		a := newAhead(log, 1)
		a.follow(0, []im.Partition{direct})
		var got []im.Entry
		read := 0
		for range 300 {
			switch dice.IntN(4) {
			case 0, 1:
				_, _ = a.Append(t.Context(), direct, []im.Entry{numbered(1), numbered(2)}[:1+dice.IntN(2)]) // lost answers are the point
			case 2:
				got = append(got, a.next(direct, int64(len(got)), 1+dice.IntN(5))...)
			case 3: // the reader, which brings again what was taken ahead
				all := log.all(direct)
				to := min(len(all), read+dice.IntN(4))
				if to > len(got) {
					got = append(got, all[len(got):to]...)
				}
				read = to
			}
		}
		for i, e := range log.all(direct)[:len(got)] {
			if g := got[i]; g.Offset != e.Offset || string(g.Key) != string(e.Key) || g.Partition != e.Partition {
				t.Fatalf("seed %d: at %d there is %v, want %v", seed, i, g, e)
			}
		}
	}
}
