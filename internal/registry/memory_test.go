package registry_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/registry/registrytest"
)

func TestMemory(t *testing.T) {
	registrytest.Run(t, func(*testing.T) registrytest.Subject {
		m := registry.NewMemory(50 * time.Millisecond)
		return registrytest.Subject{Registry: m, States: m, Members: m, TTL: 50 * time.Millisecond}
	})
}

// TestMemoryOutage walks a watcher through a registry that falls silent, then answers with an empty catalogue, then
// recovers.
func TestMemoryOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := registry.NewMemory(0)
		ctx, cancel := context.WithCancel(t.Context())
		var calls, last atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = m.Watch(ctx, "gateway", "eu", func(list []im.Instance) {
				calls.Add(1)
				last.Store(int64(len(list)))
			})
		}()
		want := func(when string, wantCalls, wantLast int64) {
			t.Helper()
			synctest.Wait()
			if calls.Load() != wantCalls || last.Load() != wantLast {
				t.Errorf("%s: %d calls, last of %d instances; want %d and %d", when, calls.Load(), last.Load(), wantCalls, wantLast)
			}
		}
		want("at first", 1, 0)
		a, err := m.Register(ctx, im.Instance{Service: "gateway", ID: "a", Region: "eu"})
		if err != nil {
			t.Fatal(err)
		}
		want("registered", 2, 1)

		m.SetSilent("eu", true)
		if _, err := m.Instances(ctx, "gateway", "eu"); !errors.Is(err, registry.ErrSilent) {
			t.Errorf("instances while silent: %v", err)
		}
		if _, err := m.Register(ctx, im.Instance{Service: "gateway", ID: "b", Region: "eu"}); !errors.Is(err, registry.ErrSilent) {
			t.Errorf("register while silent: %v", err)
		}
		a.Abandon()
		time.Sleep(registry.DefaultTTL + time.Second)
		want("silent", 2, 1)
		if list, err := m.Instances(ctx, "gateway", "us"); err != nil || len(list) != 0 {
			t.Errorf("another region: %v, %v", list, err)
		}
		m.SetSilent("eu", false)
		want("answers again", 3, 0)

		if _, err := m.Register(ctx, im.Instance{Service: "gateway", ID: "c", Region: "eu"}); err != nil {
			t.Fatal(err)
		}
		want("registered again", 4, 1)
		m.SetEmpty("eu", true)
		want("empty", 5, 0)
		m.SetEmpty("eu", false)
		want("recovered", 6, 1)
		cancel()
		<-done
	})
}
