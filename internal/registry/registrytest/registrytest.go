// Package registrytest holds every registry to the same behaviour.
package registrytest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// Subject is a registry under test, empty, with two regions eu and us.
type Subject struct {
	Registry registry.Registry
	States   registry.States
	Members  registry.Members
	TTL      time.Duration // after which an abandoned instance is gone, give or take as much again
}

// patience bounds every wait: real registries take a second or two to tell a change.
const patience = 10 * time.Second

// Run runs the suite; open returns a fresh subject for each part.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, part := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"lists what is registered", lists},
		{"updates", updates},
		{"closes", closes},
		{"abandoned instances expire", expires},
		{"a second registration takes over", takesOver},
		{"watches", watches},
		{"refuses nameless instances", refuses},
		{"the highest stamp wins", statesMerge},
		{"watches region states", statesWatch},
		{"the highest stamp of a member wins", membersMerge},
		{"watches members", membersWatch},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, open(t)) })
	}
}

func instance(service, id string, r im.Region) im.Instance {
	return im.Instance{Service: service, ID: id, Region: r, Addr: "127.0.0.1:1", URL: "http://127.0.0.1:2", Epoch: 7, Serves: []string{"im"}}
}

func register(t *testing.T, s Subject, i im.Instance) registry.Lease {
	t.Helper()
	l, err := s.Registry.Register(t.Context(), i)
	if err != nil {
		t.Fatalf("register %s: %v", i.ID, err)
	}
	return l
}

// eventually polls the list until it is as wanted.
func eventually(t *testing.T, s Subject, service string, r im.Region, want ...im.Instance) {
	t.Helper()
	var got []im.Instance
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = s.Registry.Instances(t.Context(), service, r); err != nil {
			t.Fatalf("instances: %v", err)
		}
		if len(got) == len(want) && (len(got) == 0 || reflect.DeepEqual(got, want)) {
			return
		}
	}
	t.Fatalf("instances of %q in %s are\n%+v\nwant\n%+v", service, r, got, want)
}

func lists(t *testing.T, s Subject) {
	b, a := instance("router", "b", "eu"), instance("router", "a", "eu")
	gw, far := instance("gateway", "a", "eu"), instance("router", "c", "us")
	for _, i := range []im.Instance{b, a, gw, far} {
		register(t, s, i)
	}
	eventually(t, s, "router", "eu", a, b)
	eventually(t, s, "", "eu", gw, a, b)
	eventually(t, s, "router", "us", far)
	eventually(t, s, "imserver", "eu")
}

func updates(t *testing.T, s Subject) {
	i := instance("gateway", "a", "eu")
	l := register(t, s, i)
	i.Draining, i.Epoch, i.Serves = true, 8, nil
	if err := l.Update(i); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, "gateway", "eu", i)
	other := instance("gateway", "b", "eu")
	if err := l.Update(other); err == nil {
		t.Error("an update may not change the id")
	}
}

func closes(t *testing.T, s Subject) {
	i := instance("gateway", "a", "eu")
	l := register(t, s, i)
	eventually(t, s, "gateway", "eu", i)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, "gateway", "eu")
	if err := l.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if err := l.Update(i); !errors.Is(err, registry.ErrLeaseLost) {
		t.Errorf("update of a closed lease: %v", err)
	}
}

func expires(t *testing.T, s Subject) {
	i, stays := instance("gateway", "a", "eu"), instance("gateway", "b", "eu")
	l := register(t, s, i)
	register(t, s, stays)
	begun := time.Now()
	l.Abandon()
	if now, err := s.Registry.Instances(t.Context(), "gateway", "eu"); err != nil || len(now) != 2 {
		t.Errorf("at once: %v, %v", now, err)
	}
	eventually(t, s, "gateway", "eu", stays)
	if took := time.Since(begun); took < s.TTL/2 {
		t.Errorf("expired after %v; its time to live is %v", took, s.TTL)
	}
}

func takesOver(t *testing.T, s Subject) {
	former := register(t, s, instance("gateway", "a", "eu"))
	i := instance("gateway", "a", "eu")
	i.Epoch = 9
	latter := register(t, s, i)
	eventually(t, s, "gateway", "eu", i)
	select {
	case <-former.Lost():
	case <-time.After(patience):
		t.Error("the former lease does not find that it is lost")
	}
	if err := former.Update(instance("gateway", "a", "eu")); !errors.Is(err, registry.ErrLeaseLost) {
		t.Errorf("update by the former lease: %v", err)
	}
	former.Abandon()
	if err := former.Close(); err != nil {
		t.Errorf("close of the former lease: %v", err)
	}
	eventually(t, s, "gateway", "eu", i)
	again := register(t, s, i) // after a crash: there is nobody who could lose anything
	latter.Abandon()
	select {
	case <-again.Lost():
		t.Error("the last lease is lost")
	default:
	}
}

// recorder keeps what a watch told, in order.
type recorder[T any] struct {
	mu   sync.Mutex
	told [][]T
}

func (r *recorder[T]) record(list []T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, slices.Clone(list))
}

func (r *recorder[T]) last() ([]T, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.told) == 0 {
		return nil, 0
	}
	return r.told[len(r.told)-1], len(r.told)
}

func (r *recorder[T]) wait(t *testing.T, want ...T) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got, n := r.last(); n > 0 && len(got) == len(want) && (len(got) == 0 || reflect.DeepEqual(got, want)) {
			return
		}
	}
	got, n := r.last()
	t.Fatalf("the watch told %d times, last %+v; want %+v", n, got, want)
}

func watches(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	var told recorder[im.Instance]
	ended := make(chan error, 1)
	go func() { ended <- s.Registry.Watch(ctx, "gateway", "eu", told.record) }()
	told.wait(t) // at once, though empty

	i := instance("gateway", "a", "eu")
	l := register(t, s, i)
	told.wait(t, i)
	_, before := told.last()
	register(t, s, instance("router", "a", "eu")) // not watched
	register(t, s, instance("gateway", "z", "us"))
	i.Draining = true
	if err := l.Update(i); err != nil {
		t.Fatal(err)
	}
	told.wait(t, i)
	if _, n := told.last(); n != before+1 {
		t.Errorf("one change was told %d times", n-before)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	told.wait(t)

	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

func refuses(t *testing.T, s Subject) {
	for _, i := range []im.Instance{{}, {Service: "gateway", ID: "a"}, {Service: "gateway", Region: "eu"}, {ID: "a", Region: "eu"}} {
		if _, err := s.Registry.Register(t.Context(), i); err == nil {
			t.Errorf("%+v was registered", i)
		}
	}
}

func statesMerge(t *testing.T, s Subject) {
	say := func(r im.Region, st im.State, stamp im.Stamp) {
		t.Helper()
		if err := s.States.SetRegionState(t.Context(), im.RegionState{Region: r, State: st, Stamp: stamp}); err != nil {
			t.Fatal(err)
		}
	}
	say("us", im.StateDraining, 5)
	say("us", im.StateActive, 4) // came late
	say("eu", im.StateActive, 9)
	say("eu", im.StateDead, 9) // a tie: what hands out less
	say("eu", im.StateJoining, 9)
	got, err := s.States.RegionStates(t.Context())
	want := []im.RegionState{{Region: "eu", State: im.StateDead, Stamp: 9}, {Region: "us", State: im.StateDraining, Stamp: 5}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("states are %+v, %v; want %+v", got, err, want)
	}
	if err := s.States.SetRegionState(t.Context(), im.RegionState{Region: "us", State: "asleep", Stamp: 10}); err == nil {
		t.Error("an unknown state was taken")
	}
}

func statesWatch(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	var told recorder[im.RegionState]
	ended := make(chan error, 1)
	go func() { ended <- s.States.WatchRegionStates(ctx, told.record) }()
	told.wait(t)
	us := im.RegionState{Region: "us", State: im.StateDraining, Stamp: 5}
	if err := s.States.SetRegionState(t.Context(), us); err != nil {
		t.Fatal(err)
	}
	told.wait(t, us)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

func membersMerge(t *testing.T, s Subject) {
	say := func(addr string, stamp im.Stamp, origins ...im.Origin) {
		t.Helper()
		if err := s.Members.SetMember(t.Context(), im.Member{Region: "ap", Origins: origins, Replicator: addr, Stamp: stamp}); err != nil {
			t.Fatal(err)
		}
	}
	say("ap:1", 5, "ap")
	say("ap:2", 7, "ap", "ap.2")
	say("ap:3", 6, "ap") // came late
	got, err := s.Members.Members(t.Context())
	want := []im.Member{{Region: "ap", Origins: []im.Origin{"ap", "ap.2"}, Replicator: "ap:2", Stamp: 7}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("members are %+v, %v; want %+v", got, err, want)
	}
	if err := s.Members.SetMember(t.Context(), im.Member{Region: "ap", Stamp: 10}); err == nil {
		t.Error("a member without a log was taken")
	}
}

func membersWatch(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan []im.Member, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Members.WatchMembers(ctx, func(all []im.Member) { changes <- all })
	}()
	next := func() []im.Member {
		t.Helper()
		select {
		case all := <-changes:
			return all
		case <-time.After(patience):
			t.Fatalf("nothing was told in %v", patience)
			return nil
		}
	}
	if first := next(); len(first) > 0 {
		t.Errorf("at first there is %v", first)
	}
	ap := im.Member{Region: "ap", Origins: []im.Origin{"ap"}, Replicator: "ap:1", Stamp: 5, Via: map[im.Region]string{"us": "ap.us:1"}}
	if err := s.Members.SetMember(t.Context(), ap); err != nil {
		t.Fatal(err)
	}
	if all := next(); len(all) != 1 || !all[0].Equal(ap) {
		t.Errorf("told is %v, want %v", all, ap)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}
