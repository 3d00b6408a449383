package app

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
)

// TestEvacuation: clients are told once the share of a draining region is nothing, again while it is left, and not any more
// once the drain is taken back.
func TestEvacuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var mu sync.Mutex
		var told []time.Duration
		e := evacuation{
			drainOver: time.Minute, now: time.Now,
			evacuate: func(within time.Duration) {
				if within != 30*time.Second {
					t.Errorf("clients are to go within %v", within)
				}
				mu.Lock()
				defer mu.Unlock()
				told = append(told, time.Since(begun))
			},
		}
		states := make(chan im.RegionState)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { e.run(ctx, states); close(done) }()
		say := func(s im.State) {
			states <- im.RegionState{Region: "eu", State: s, Stamp: im.StampAt(time.Now())}
			synctest.Wait()
		}
		want := func(when string, at ...time.Duration) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, at) {
				t.Errorf("%s: clients were told at %v, want %v", when, told, at)
			}
		}
		say(im.StateActive)
		time.Sleep(time.Hour) // in the bubble's time, as all waits below: it takes none
		want("active")
		mu.Lock()
		begun = time.Now()
		mu.Unlock()
		say(im.StateDraining)
		time.Sleep(59 * time.Second)
		want("the share steps down")
		time.Sleep(time.Second)
		want("the share is nothing", time.Minute)
		say(im.StateDrained)
		time.Sleep(time.Minute)
		want("drained, and some are there", time.Minute, 2*time.Minute)
		say(im.StateActive)
		time.Sleep(time.Hour)
		want("active again", time.Minute, 2*time.Minute)
		mu.Lock()
		begun, told = time.Now(), nil
		mu.Unlock()
		say(im.StateDraining)
		time.Sleep(time.Minute)
		want("draining again", time.Minute)
		cancel()
		<-done
	})
}

// TestWhoStayedIsTold: clients that stayed while their region was seeded are told that they are behind when it is active again, over as long
// a time as a drain gives them to go; not when a drain is taken back, nor when it is said once more.
func TestWhoStayedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		e := evacuation{
			drainOver: time.Minute, now: time.Now, evacuate: func(time.Duration) {},
			behind: func(_ context.Context, over time.Duration) {
				if told++; over != 30*time.Second {
					t.Errorf("clients are told over %v", over)
				}
			},
		}
		states := make(chan im.RegionState)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { e.run(ctx, states); close(done) }()
		for i, c := range []struct {
			said im.State
			told int
		}{
			{im.StateActive, 0},
			{im.StateJoining, 0},
			{im.StateJoining, 0},
			{im.StateActive, 1},
			{im.StateActive, 1},
			{im.StateDraining, 1},
			{im.StateActive, 1},
			{im.StateJoining, 1},
			{im.StateDead, 1},
			{im.StateActive, 1},
		} {
			states <- im.RegionState{Region: "eu", State: c.said, Stamp: im.StampAt(time.Now())}
			synctest.Wait()
			if told != c.told {
				t.Errorf("%d, %v: clients were told %d times, want %d", i, c.said, told, c.told)
			}
		}
		cancel()
		<-done
	})
}
