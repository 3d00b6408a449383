package app

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// fakeWorld is what a region that joins hears.
type fakeWorld struct {
	mu      sync.Mutex
	ends    map[im.Region]map[im.Partition]int64
	applied map[im.Partition]int64
	seals   map[im.Partition]int64
	lacks   []im.Origin // sealed logs
	err     error
}

func (w *fakeWorld) Ends() map[im.Region]map[im.Partition]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[im.Region]map[im.Partition]int64{}
	for r, ends := range w.ends {
		all[r] = maps.Clone(ends)
	}
	return all
}

func (w *fakeWorld) Sealed() (map[im.Partition]int64, []im.Origin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.seals), w.lacks
}

func (w *fakeWorld) Empty(context.Context) (bool, error) { return true, nil }

func (w *fakeWorld) Positions(context.Context, im.Origin) ([]im.Position, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []im.Position
	for p, next := range w.applied {
		all = append(all, im.Position{Partition: p, Next: next})
	}
	return all, w.err
}

func TestJoining(t *testing.T) {
	us := im.Partition{Topic: im.MsgTopic("us", im.LaneDirect)}
	ap := im.Partition{Topic: im.MsgTopic("ap", im.LaneDirect)}
	rig := func(t *testing.T, w *fakeWorld) (set func(func()), caught func() bool, missing func() string) {
		ctx, cancel := context.WithCancel(t.Context())
		var (
			mu   sync.Mutex
			done bool
			told string
		)
		ended := make(chan struct{})
		j := joiner{bound: 10 * time.Second, links: w, views: w, now: time.Now}
		go func() {
			defer close(ended)
			err := j.caughtUp(ctx, func(line string) {
				mu.Lock()
				told = line
				mu.Unlock()
			})
			mu.Lock()
			done = err == nil
			mu.Unlock()
		}()
		t.Cleanup(func() { cancel(); <-ended })
		set = func(change func()) {
			w.mu.Lock()
			change()
			w.mu.Unlock()
			time.Sleep(5 * time.Second) // in the bubble's time: it takes none
			synctest.Wait()
		}
		caught = func() bool { mu.Lock(); defer mu.Unlock(); return done }
		missing = func() string { mu.Lock(); defer mu.Unlock(); return told }
		return set, caught, missing
	}
	for name, test := range map[string]func(t *testing.T){
		"waits for every peer, and for what it holds": func(t *testing.T) {
			w := &fakeWorld{ends: map[im.Region]map[im.Partition]int64{"us": {us: 1}, "ap": nil}, applied: map[im.Partition]int64{us: 1}}
			set, caught, _ := rig(t, w)
			set(func() {})
			if caught() {
				t.Fatal("ap has not answered yet")
			}
			set(func() { w.ends["ap"] = map[im.Partition]int64{ap: 7} })
			if caught() {
				t.Fatal("nothing of ap is applied")
			}
			set(func() { w.applied[ap] = 7 })
			if !caught() {
				t.Error("everything is applied")
			}
		},
		"goes on without a peer that stays away, if there is another": func(t *testing.T) {
			w := &fakeWorld{ends: map[im.Region]map[im.Partition]int64{"us": nil, "ap": nil}, applied: map[im.Partition]int64{us: 1}}
			set, caught, missing := rig(t, w)
			for range 10 {
				set(func() {})
			}
			if caught() || !strings.Contains(missing(), "no other region answers") {
				t.Fatalf("nobody answers, and it waits for %q", missing())
			}
			set(func() { w.ends["us"] = map[im.Partition]int64{us: 1} })
			if !caught() {
				t.Error("what us has is applied")
			}
		},
		"is not near while it applies what is older than the bound": func(t *testing.T) {
			w := &fakeWorld{ends: map[im.Region]map[im.Partition]int64{"us": {us: 1000}}, applied: map[im.Partition]int64{}}
			set, caught, missing := rig(t, w)
			for n := range 20 { // a minute behind all the time
				set(func() {
					w.ends["us"][us] = int64(1000 + 50*n)
					w.applied[us] = int64(900 + 50*(n-12))
				})
			}
			if caught() || !strings.Contains(missing(), "not applied yet") {
				t.Fatalf("it is a minute behind, and waits for %q", missing())
			}
			set(func() { w.err = errors.New("restarting") })
			set(func() { w.err, w.applied[us] = nil, 2000 })
			if !caught() {
				t.Error("it is near")
			}
		},
		"waits for the log of a region that was lost, however long": func(t *testing.T) {
			w := &fakeWorld{ends: map[im.Region]map[im.Partition]int64{"us": {us: 1}}, applied: map[im.Partition]int64{us: 1}, lacks: []im.Origin{"ap"}}
			set, caught, missing := rig(t, w)
			for range 20 {
				set(func() {})
			}
			if caught() || !strings.Contains(missing(), "the sealed log of ap is not here yet") {
				t.Fatalf("nothing of ap is here, and it waits for %q", missing())
			}
			set(func() { w.lacks, w.seals = nil, map[im.Partition]int64{ap: 7} })
			if caught() {
				t.Fatal("nothing of ap is applied")
			}
			set(func() { w.applied[ap] = 7 })
			if !caught() {
				t.Error("everything is applied")
			}
		},
		"is near by itself where there is no other": func(t *testing.T) {
			set, caught, _ := rig(t, &fakeWorld{})
			if set(func() {}); !caught() {
				t.Error("there is nothing to wait for")
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// TestOwnWordIsTheWeakest: whatever is said of a region holds against what it says of itself.
func TestOwnWordIsTheWeakest(t *testing.T) {
	operator := im.RegionState{Region: "eu", State: im.StateActive, Stamp: im.StampAt(time.UnixMilli(1))}
	for _, own := range []im.RegionState{
		{Region: "eu", State: im.StateJoining, Stamp: stampJoining}, {Region: "eu", State: im.StateActive, Stamp: stampJoined},
	} {
		if own.Compare(operator) >= 0 {
			t.Errorf("%v holds against %v", own, operator)
		}
	}
	if undecided(operator) || !undecided(im.RegionState{}) || !undecided(im.RegionState{Stamp: stampJoining}) || undecided(im.RegionState{Stamp: stampJoined}) {
		t.Error("what is undecided")
	}
}

// TestGatewayLeavesTheWordToTheReplicator: a gateway says that its region is joining only if no replicator is there that did
// or could. A registered one has said what it had to say, and one of a version that says nothing would never end the joining.
func TestGatewayLeavesTheWordToTheReplicator(t *testing.T) {
	listed := im.Instance{Service: ServiceReplicator, ID: "r", Region: "eu", Addr: "h:1"}
	for name, c := range map[string]struct {
		after  time.Duration // when something happens
		does   func(context.Context, *registry.Memory) error
		spoken bool
		within time.Duration
	}{
		"a replicator is registered": {
			does:   func(ctx context.Context, m *registry.Memory) error { _, err := m.Register(ctx, listed); return err },
			spoken: true,
		},
		"one is registered later": {
			after:  3 * time.Second,
			does:   func(ctx context.Context, m *registry.Memory) error { _, err := m.Register(ctx, listed); return err },
			spoken: true, within: 3 * time.Second,
		},
		"one speaks, and is not registered yet": {
			after: 3 * time.Second,
			does: func(ctx context.Context, m *registry.Memory) error {
				return m.SetRegionState(ctx, im.RegionState{Region: "eu", State: im.StateJoining, Stamp: stampJoining})
			},
			spoken: true, within: 3 * time.Second,
		},
		"another region's is registered": {
			does: func(ctx context.Context, m *registry.Memory) error {
				us := listed
				us.Region = "us"
				_, err := m.Register(ctx, us)
				return err
			},
			within: speakWait,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := registry.NewMemory(0)
				p := &process{env: Env{Discovery: m}, site: Site{Region: "eu"}}
				go func() {
					time.Sleep(c.after) // on synctest's clock
					if err := c.does(t.Context(), m); err != nil {
						t.Error(err)
					}
				}()
				synctest.Wait()
				began := time.Now()
				spoken := p.spoken(t.Context())
				if took := time.Since(began); spoken != c.spoken || took < c.within || took > c.within+joinEvery {
					t.Errorf("the word is the replicator's: %v after %v, want %v after %v", spoken, took, c.spoken, c.within)
				}
			})
		})
	}
}
