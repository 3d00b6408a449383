package imserver

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time go by on the fake clock of synctest, on which every test runs that waits: it takes none.
func pass(d time.Duration) { time.Sleep(d) }

func minimal(log *fakeLog, store *fakeStore, owns Ownership) (Config, Deps) {
	return Config{Region: "eu", Origins: []im.Origin{"eu"}, Partitions: 1},
		Deps{Log: log, NewReader: log.newReader, Store: store, Deliver: &fakeRouter{}, Held: &fakeHolder{}, Ownership: owns}
}

// A region whose own log is not the one that its timelines came from must not accept: seqs would be given twice.
func TestRefusesToStart(t *testing.T) {
	p := im.Partition{Topic: "msg.eu.direct"}
	position := func(next int64, id im.UUID) []view.Part {
		return []view.Part{{Partition: p, To: view.Position{Position: im.Position{Partition: p, Next: next, Local: next, Log: id}}}}
	}
	for _, test := range []struct {
		name  string
		parts []view.Part
		log   func(*fakeLog)
		want  string
	}{
		{"shorter", position(5, logID("eu")), func(l *fakeLog) { l.create("eu", 1) }, "truncated or made anew"},
		{"another name", position(1, im.UUID{1}), func(l *fakeLog) { l.create("eu", 1) }, "the log was made anew"},
		{"another origin", nil, func(l *fakeLog) {
			l.create("eu", 1)
			l.entries[p] = nil
			l.put(p, wire.EncodeLogName(im.KindLog, im.LogName{Origin: "us", ID: logID("us")}, 0))
		}, `the log of origin "us"`},
		{"a copy, since the region came back", nil, func(l *fakeLog) {
			l.create("eu", 1)
			l.entries[p] = nil
			l.put(p, wire.AsCopy(wire.EncodeLogName(im.KindLog, im.LogName{Origin: "eu", ID: logID("eu")}, 0), 0, 0))
		}, "goes on under a later epoch"},
		{"markers, since the region came back and was seeded", nil, func(l *fakeLog) {
			l.create("eu", 1)
			l.entries[p] = nil
			l.put(p, wire.EncodeHold("eu", 1, 0))
			l.put(p, wire.EncodeSeal("eu", 1, 9, 0))
		}, "goes on under a later epoch"},
		{"empty", nil, func(*fakeLog) {}, "record 0 must name the log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, store := newFakeLog(), newFakeStore(1)
			test.log(log)
			if err := store.view.Apply(test.parts); err != nil {
				t.Fatal(err)
			}
			s, err := New(minimal(log, store, newFakeOwnership(0)))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want a refusal that says %q", err, test.want)
			}
		})
	}
}

func TestNewRefusesImpossibleConfigurations(t *testing.T) {
	_, deps := minimal(newFakeLog(), newFakeStore(1), newFakeOwnership())
	for name, cfg := range map[string]Config{
		"no region":           {},
		"another's origin":    {Region: "eu", Origin: "us", Origins: []im.Origin{"us"}},
		"own origin missing":  {Region: "eu", Origins: []im.Origin{"us"}},
		"a malformed origin":  {Region: "eu", Origins: []im.Origin{"eu", "EU"}},
		"too many partitions": {Region: "eu", Origins: []im.Origin{"eu"}, Partitions: 1 << 20},
	} {
		if _, err := New(cfg, deps); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Region: "eu", Origins: []im.Origin{"eu"}}, Deps{}); err == nil {
		t.Error("no dependencies: accepted")
	}
}

// When told to end, what is being committed is finished and held cursors are written; when killed, nothing is.
func TestEnds(t *testing.T) {
	for _, killed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			log, store := newFakeLog(), newFakeStore(1)
			log.create("eu", 1)
			var slow atomic.Bool
			store.step = func(ctx context.Context, what string) error {
				if slow.Load() && what == "before apply" {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(time.Second):
					}
				}
				return nil
			}
			s, err := New(minimal(log, store, newFakeOwnership(0)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancelCause(t.Context())
			ended := make(chan error)
			go func() { ended <- s.Run(ctx) }()
			pass(time.Second)
			slow.Store(true)
			p := im.Partition{Topic: "msg.eu.direct"}
			log.put(p, wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "ann"}, Kind: im.KindMessage, Version: 1}))
			s.marks.Add(accept.MarkKey{Conversation: "d:ann:bob", UID: "ann"}, nil, im.Cursor{"eu": 1})
			pass(100 * time.Millisecond)
			s.marks.Add(accept.MarkKey{Conversation: "d:ann:bob", UID: "ann"}, nil, im.Cursor{"eu": 2})
			begun := time.Now()
			if killed {
				end(im.ErrKilled)
			} else {
				end(nil)
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); killed != (took == 0) {
				t.Errorf("killed=%v: it took %v to end", killed, took)
			}
			cursors := 0
			for _, e := range log.entries[im.Partition{Topic: "read.eu"}] {
				if wire.DecodeHead(&e).Kind == im.KindCursors {
					cursors++
				}
			}
			if applied := store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "eu"}) == 1; applied == killed {
				t.Errorf("killed=%v: applied=%v", killed, applied)
			}
			if want := map[bool]int{true: 1, false: 2}[killed]; cursors != want {
				t.Errorf("killed=%v: %d cursors records, want %d", killed, cursors, want)
			}
			if _, err := s.Call(context.Background(), im.Call{Method: "list", UID: "ann"}); im.CodeOf(err) != im.CodeUnready {
				t.Errorf("after its end it answers %v", err)
			}
		})
	}
}

// Retention that passed what was not applied, and a log under another name, stop their partition and no other.
func TestHalts(t *testing.T) {
	direct, group := im.Partition{Topic: "msg.us.direct"}, im.Partition{Topic: "msg.us.group"}
	for name, breakIt := range map[string]func(*fakeLog){
		"retention": func(l *fakeLog) { l.starts[direct] = 3 },
		"another name": func(l *fakeLog) {
			l.put(direct, wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "us", ID: im.UUID{9}}, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newFakeLog(), newFakeStore(1)
				log.create("eu", 1)
				log.create("us", 1)
				breakIt(log)
				message := wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "ann"}, Kind: im.KindMessage, Version: 1})
				for range 4 {
					log.put(direct, message)
				}
				inGroup := wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: scriptGroup, Sender: "ann"}, Kind: im.KindMessage, Version: 1})
				log.put(group, inGroup)
				cfg, deps := minimal(log, store, newFakeOwnership(0))
				cfg.Origins = []im.Origin{"eu", "us"}
				_, end := running(t, cfg, deps)
				pass(time.Minute)
				if err := end(); err != nil {
					t.Fatal(err)
				}
				if n := store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "us"}); n != 0 {
					t.Errorf("%d records were applied past what is missing", n)
				}
				if n := store.view.Last(view.HeadKey{Conversation: scriptGroup, Origin: "us"}); n != 1 {
					t.Errorf("the other partition stands still")
				}
			})
		})
	}
}

// A copy that does not hold the place where apply is to go on is read from its start: what was missing is brought once more
// at its end, and applied from there, each record once.
func TestCopyBroughtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		direct := im.Partition{Topic: "msg.us.direct"}
		log, store := newFakeLog(), newFakeStore(1)
		log.create("eu", 1)
		log.create("us", 1)
		message := wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "ann"}, Kind: im.KindMessage, Version: 1})
		for range 6 {
			log.put(direct, message)
		}
		log.starts[direct] = 4
		cfg, deps := minimal(log, store, newFakeOwnership(0))
		cfg.Origins = []im.Origin{"eu", "us"}
		_, end := running(t, cfg, deps)
		last := func() uint64 { return store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "us"}) }
		pass(time.Minute)
		if n := last(); n != 0 {
			t.Errorf("%d records were applied past what is missing", n)
		}
		log.put(direct, wire.AsCopy(log.all(direct)[0], 0, 0))
		for o := range int64(8) {
			log.put(direct, wire.AsCopy(message, 1+o, 0))
		}
		pass(time.Minute)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if n := last(); n != 8 {
			t.Errorf("%d of 8 records were applied", n)
		}
	})
}

// What a halted partition gathered is never committed, so it must not be a reason to look every 2 ms.
func TestHaltedMovesNothing(t *testing.T) {
	log, store := newFakeLog(), newFakeStore(1)
	log.create("eu", 1)
	s, err := New(minimal(log, store, newFakeOwnership(0)))
	if err != nil {
		t.Fatal(err)
	}
	a := newApplier(s, 0)
	if err := a.takeOver(t.Context(), t.Context(), []int{0}, s.cfg.Origins); err != nil {
		t.Fatal(err)
	}
	a.reader = log.newReader(nil)
	p := im.Partition{Topic: "msg.eu.direct"}
	log.put(p, wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu", ID: im.UUID{9}}, 0))
	rows, moved := 0, false
	a.take(t.Context(), []im.Batch{{Partition: p, Entries: log.all(p)}}, &rows, &moved)
	if !a.halted[p] {
		t.Fatal("a log under another name is read on")
	}
	if moved || a.moved() {
		t.Errorf("a halted partition wants a batch: %v as it is halted, %v later", moved, a.moved())
	}
	other := im.Partition{Topic: "msg.eu.group"}
	if a.take(t.Context(), []im.Batch{{Partition: other, Entries: log.all(other)}}, &rows, &moved); !moved || !a.moved() {
		t.Error("a partition that is not halted moved, and wants no batch")
	}
}

// forgetful is a reader that drops a partition once, as one does whose log did not hold the next offset for a moment.
type forgetful struct {
	*fakeReader
	drop chan im.Partition
}

func (r *forgetful) Poll(ctx context.Context) ([]im.Batch, error) {
	select {
	case p := <-r.drop:
		r.Drop(p)
		return nil, fmt.Errorf("%v: out of range", p)
	default:
		return r.fakeReader.Poll(ctx)
	}
}

// A partition that the reader dropped, and whose log holds what comes next after all, is read on; also if the log does not
// tell its bounds at that moment.
func TestReadsOnWhatTheReaderDropped(t *testing.T) {
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			log, store := newFakeLog(), newFakeStore(1)
			log.create("eu", 1)
			direct, group := im.Partition{Topic: "msg.eu.direct"}, im.Partition{Topic: "msg.eu.group"}
			message := wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "ann"}, Kind: im.KindMessage, Version: 1})
			cfg, deps := minimal(log, store, newFakeOwnership(0))
			drop := make(chan im.Partition, 1)
			deps.NewReader = func(from map[im.Partition]int64) Reader {
				return &forgetful{log.newReader(from).(*fakeReader), drop}
			}
			boundless := &boundless{fakeLog: log}
			deps.Log = boundless
			_, end := running(t, cfg, deps)
			pass(time.Second)
			boundless.away.Store(away)
			drop <- direct
			log.put(group, wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu", ID: logID("eu")}, 0)) // a poll returns
			pass(time.Second)
			log.put(direct, message)
			pass(time.Minute)
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if n := store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "eu"}); n != 1 {
				t.Errorf("with the bounds away %v: %d records were applied, want 1", away, n)
			}
		})
	}
}

// boundless is a log that does not tell its bounds while it is away.
type boundless struct {
	*fakeLog
	away atomic.Bool
}

func (l *boundless) Bounds(ctx context.Context, partitions []im.Partition) (map[im.Partition]im.Bounds, error) {
	if l.away.Load() {
		return nil, errDown
	}
	return l.fakeLog.Bounds(ctx, partitions)
}

// parted is a store of two databases, of which the one with the odd partitions may be gone.
type parted struct {
	*fakeStore
	gone atomic.Bool
}

func (s *parted) Apply(ctx context.Context, parts []view.Part) error {
	for i := range parts {
		if parts[i].Partition.Number%2 != parts[0].Partition.Number%2 {
			return fmt.Errorf("%v and %v in one transaction", parts[0].Partition, parts[i].Partition)
		}
		if s.gone.Load() && parts[i].Partition.Number%2 == 1 {
			return errDown
		}
	}
	return s.fakeStore.Apply(ctx, parts)
}

// A database that is gone holds up the partitions that live in it, and no others.
func TestDatabasesFailAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newFakeLog(), &parted{fakeStore: newFakeStore(4)}
		log.create("eu", 4)
		cfg, deps := minimal(log, store.fakeStore, newFakeOwnership(0, 1, 2, 3))
		cfg.Partitions, cfg.Databases = 4, 2
		deps.Store = store
		s, end := running(t, cfg, deps)
		pass(time.Second)
		if n := len(s.shards.numbers()); n != 4 {
			t.Fatalf("%d partitions are owned, want 4", n)
		}
		store.gone.Store(true)
		conversations := map[int]im.Conversation{}
		for i := 0; len(conversations) < 4; i++ {
			c := im.Direct("ann", im.UID(fmt.Sprint("bob", i)))
			conversations[s.number(c)] = c
		}
		for n, c := range conversations {
			record := im.Record{ID: im.ID{Conversation: c, Sender: "ann"}, Kind: im.KindMessage, Version: 1}
			log.put(im.Partition{Topic: "msg.eu.direct", Number: n}, wire.EncodeRecord(&record))
		}
		applied := func(n int) uint64 {
			store.mu.Lock()
			defer store.mu.Unlock()
			return store.view.Last(view.HeadKey{Conversation: conversations[n], Origin: "eu"})
		}
		pass(time.Second)
		for n := range 4 {
			if got, want := applied(n), uint64(1-n%2); got != want {
				t.Errorf("with the odd database gone, %d records of partition %d were applied, want %d", got, n, want)
			}
		}
		store.gone.Store(false)
		pass(time.Minute)
		for n := range 4 {
			if got := applied(n); got != 1 {
				t.Errorf("with both databases back, %d records of partition %d were applied, want 1", got, n)
			}
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
	})
}

// An own log that cannot be compared at first is waited for; nothing is accepted meanwhile.
func TestLogOutOfReachAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := &boundless{fakeLog: newFakeLog()}, newFakeStore(1)
		log.create("eu", 1)
		log.away.Store(true)
		cfg, deps := minimal(log.fakeLog, store, newFakeOwnership(0))
		deps.Log = log
		s, end := running(t, cfg, deps)
		pass(time.Minute)
		if err := s.Ready(); err == nil {
			t.Error("ready without having seen the own log")
		}
		select {
		case <-s.Begun():
			t.Error("it may be listed without having seen the own log")
		default:
		}
		log.away.Store(false)
		pass(5 * time.Second)
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		<-s.Begun()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ready(); err == nil {
			t.Error("ready after its end")
		}
	})
}

// running runs a server until end, which returns what Run did.
func running(t *testing.T, cfg Config, deps Deps) (s *Server, end func() error) {
	t.Helper()
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	return s, func() error {
		cancel()
		return <-ended
	}
}
