package imserver

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

var ownDirect = im.Partition{Topic: "msg.eu.direct"}

// lose takes the end of a partition away, as a broker does that acknowledged what it had not written. Readers hear of it when
// something is appended.
func (l *fakeLog) lose(p im.Partition, from int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[p] = l.entries[p][:from:from]
}

// owning is a running imserver that owns the only partition, and what is asked of it.
type owning struct {
	t     *testing.T
	log   *fakeLog
	store *fakeStore
	s     *Server
	drop  chan im.Partition // what a reader drops when it polls next
	stop  func() error
}

func own(t *testing.T, log *fakeLog, store *fakeStore) *owning {
	t.Helper()
	cfg, deps := minimal(log, store, newFakeOwnership(0))
	cfg.Heartbeat = time.Hour
	drop := make(chan im.Partition, 1)
	deps.NewReader = func(from map[im.Partition]int64) Reader {
		return &forgetful{log.newReader(from).(*fakeReader), drop}
	}
	s, end := running(t, cfg, deps)
	pass(time.Second)
	return &owning{t, log, store, s, drop, end}
}

func (o *owning) submit(c im.Conversation) error {
	o.t.Helper()
	body, err := wire.Marshal(&wire.SubmitRequest{
		Conversation: string(c), ClientId: im.NewUUID(time.Now()).String(), Content: &wire.SubmitText{Text: &wire.Text{Text: "x"}},
	})
	if err != nil {
		o.t.Fatal(err)
	}
	_, err = o.s.Call(o.t.Context(), im.Call{Method: wire.MethodSubmit, UID: "ann", Body: body})
	pass(time.Second)
	return err
}

func (o *owning) must(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

// Into an own partition that is not applied any more nothing is accepted: it would be acknowledged and never seen (I1, I2).
func TestHaltedPartitionTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newFakeLog(), newFakeStore(1)
		log.create("eu", 1)
		o := own(t, log, store)
		for range 5 {
			o.must(o.submit("d:ann:bob"))
		}
		log.lose(ownDirect, 3)
		log.put(im.Partition{Topic: "read.eu"}, wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu", ID: logID("eu")}, 0)) // readers look
		pass(time.Second)
		if err := o.s.Ready(); err == nil || !strings.Contains(err.Error(), "msg.eu.direct") {
			t.Errorf("ready with a partition that is halted: %v", err)
		}
		if err := o.submit("d:ann:bob"); im.CodeOf(err) != im.CodeUnavailable {
			t.Errorf("a submit into the halted partition answers %v, want unavailable", err)
		}
		if n := len(log.all(ownDirect)); n != 3 {
			t.Errorf("the halted partition has %d entries, want the 3 that were left", n)
		}
		pass(2 * time.Hour) // heartbeats are due
		if n := len(log.all(ownDirect)); n != 3 {
			t.Errorf("the halted partition has %d entries after the heartbeats, want 3", n)
		}
		body, _ := wire.Marshal(&wire.SubmitRequest{
			Conversation: string(im.Group("eu", im.NewUUID(time.Now()))), ClientId: im.NewUUID(time.Now()).String(),
			Content: &wire.SubmitCreate{Create: &wire.Create{Title: "pets"}},
		})
		_, err := o.s.Call(t.Context(), im.Call{Method: wire.MethodSubmit, UID: "ann", Body: body})
		o.must(err) // another lane's partition goes on
		o.must(o.stop())
	})
}

// Whoever submits may be the first to meet a log that lost records: what landed below the place that was read is not
// acknowledged, and its partition is halted.
func TestSubmitBelowThePosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newFakeLog(), newFakeStore(1)
		log.create("eu", 1)
		o := own(t, log, store)
		for range 5 {
			o.must(o.submit("d:ann:bob"))
		}
		log.lose(ownDirect, 3)
		for range 2 {
			if err := o.submit("d:ann:bob"); im.CodeOf(err) != im.CodeUnavailable {
				t.Errorf("a submit that lands at an offset that was applied already answers %v, want unavailable", err)
			}
		}
		if o.s.Ready() == nil {
			t.Error("ready although the log lost records")
		}
		o.must(o.stop())
	})
}

// A log that lost its end and grew past the position again has another record at the position's last: it is not taken for
// the one that it was, at start, when a partition is taken over, and after reading it failed.
func TestLogGrewAgain(t *testing.T) {
	name := wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu", ID: logID("eu")}, 0)
	message := wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "cat"}, Kind: im.KindMessage, Version: 1})
	for _, when := range []string{"at start", "at take-over", "while it is read"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, store := newFakeLog(), newFakeStore(1)
				log.create("eu", 1)
				o := own(t, log, store)
				for range 5 {
					o.must(o.submit("d:ann:bob"))
				}
				regrow := func() {
					log.lose(ownDirect, 3)
					log.put(ownDirect, name, message, message, message, message, message)
				}
				applied := func() uint64 { return store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "eu"}) }
				switch when {
				case "at start":
					o.must(o.stop())
					regrow()
					o = own(t, log, store)
					if err := o.stop(); err == nil || !strings.Contains(err.Error(), "grew again") {
						t.Errorf("it starts on another log: %v", err)
					}
					return
				case "at take-over":
					o.s.deps.Ownership.(*fakeOwnership).set()
					pass(time.Second)
					regrow()
					o.s.deps.Ownership.(*fakeOwnership).set(0)
				case "while it is read":
					o.drop <- ownDirect                                                                                                         // as a reader does that sees the log part from what it read
					log.put(im.Partition{Topic: "read.eu"}, wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu", ID: logID("eu")}, 0)) // a poll returns
					pass(time.Second)
					regrow()
				}
				pass(time.Minute)
				if o.s.Ready() == nil {
					t.Error("ready on another log")
				}
				if n := applied(); n != 5 {
					t.Errorf("%d records are applied, want the 5 of before", n)
				}
				o.must(o.stop())
			})
		})
	}
}
