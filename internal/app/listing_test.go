package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// listed is a process of which only the listing runs.
type listed struct {
	t           *testing.T
	begun, over chan struct{}
	cancel      context.CancelFunc
	done        chan error
}

func newListed(t *testing.T, m *registry.Memory, epoch uint64, begun bool) *listed {
	t.Helper()
	p := &process{
		env: Env{Discovery: m}, site: Site{Region: "eu"}, service: ServiceGateway, binding: Binding{ID: "g"},
		tel: &telemetry.Telemetry{Log: slog.New(slog.DiscardHandler)},
	}
	l := &listed{t: t, begun: make(chan struct{}), over: make(chan struct{}), done: make(chan error, 1)}
	if begun {
		close(l.begun)
	}
	self := p.instance("h:1")
	self.Epoch = epoch
	ended := func() bool {
		select {
		case <-l.over:
			return true
		default:
			return false
		}
	}
	if _, err := p.listWhile(t.Context(), self, tenure{begun: l.begun, over: l.over, ended: ended}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	go func() { l.done <- p.Run(ctx) }()
	synctest.Wait()
	return l
}

// end stops it, if it goes on, and tells its error.
func (l *listed) end() error {
	l.cancel()
	return <-l.done
}

// epochs lists who is known.
func epochs(t *testing.T, m *registry.Memory) (all []uint64) {
	t.Helper()
	synctest.Wait()
	list, err := m.Instances(t.Context(), ServiceGateway, "eu")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		all = append(all, i.Epoch)
	}
	return all
}

func expectEpochs(t *testing.T, m *registry.Memory, when string, want ...uint64) {
	t.Helper()
	if got := epochs(t, m); len(got) != len(want) || len(got) == 1 && got[0] != want[0] {
		t.Errorf("%s: listed are %v, want %v", when, got, want)
	}
}

// A process that takes over is listed once it has, and the one before never looks gone.
func TestListedWhileServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := registry.NewMemory(0)
		first := newListed(t, m, 1, true)
		expectEpochs(t, m, "at first", 1)

		fails := newListed(t, m, 2, false)
		expectEpochs(t, m, "while another tries to take over", 1)
		if err := fails.end(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // in the bubble's time, as all waits below: it takes none
		expectEpochs(t, m, "after it failed", 1)

		second := newListed(t, m, 3, false)
		m.SetSilent("eu", true)
		close(first.over)
		close(second.begun)
		time.Sleep(time.Second) // discovery is not told yet
		m.SetSilent("eu", false)
		expectEpochs(t, m, "taken over in a silence", 1)
		time.Sleep(2 * time.Second)
		expectEpochs(t, m, "after the silence", 3)
		if err := first.end(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		expectEpochs(t, m, "when the first has ended", 3)
		if err := second.end(); err != nil {
			t.Error(err)
		}
		expectEpochs(t, m, "when the second has ended")
	})
}

// Of two processes of one name the first ends: both would own the same partitions.
func TestListedTwiceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := registry.NewMemory(0)
		first, second := newListed(t, m, 1, true), newListed(t, m, 2, true)
		select {
		case err := <-first.done:
			if err == nil || !strings.Contains(err.Error(), "registered as gateway g of region eu") {
				t.Error(err)
			}
		default:
			t.Fatal("the first goes on")
		}
		expectEpochs(t, m, "afterwards", 2)
		if err := second.end(); err != nil {
			t.Error(err)
		}
	})
}

// reluctant is a registry that refuses registrations.
type reluctant struct {
	*registry.Memory
	fail func() error
}

func (r reluctant) Register(ctx context.Context, i im.Instance) (registry.Lease, error) {
	if err := r.fail(); err != nil {
		return nil, fmt.Errorf("consul at h:8500: register %s: %w", i.ID, err)
	}
	return r.Memory.Register(ctx, i)
}

// A registration that fails at start is waited for as any backend is; what remains is one line with backend, address and
// remedy, and what waiting does not help ends at once.
func TestRegistrationAtStart(t *testing.T) {
	at := backend{"consul", "h:8500", consul.Explain}
	for _, c := range []struct {
		name   string
		fail   func(attempt int) error
		listed bool
		waits  bool
		says   string
	}{
		{"no service:write", func(int) error {
			return api.StatusError{Code: http.StatusForbidden, Body: "Permission denied: token lacks permission 'service:write'"}
		}, false, false, "consul at h:8500: the token is refused: Permission denied: token lacks permission 'service:write': give discovery.token service:write"},
		{"silent", func(int) error { return syscall.ECONNREFUSED }, false, true, "consul at h:8500: connection refused: start the Consul agent"},
		{"silent at first", func(attempt int) error {
			if attempt < 4 {
				return syscall.ECONNREFUSED
			}
			return nil
		}, true, true, ""},
	} {
		for _, later := range []bool{false, true} { // an imserver registers when it has begun to answer
			synctest.Test(t, func(t *testing.T) {
				tel, err := telemetry.New(telemetry.Config{Service: ServiceIMServer, LogWriter: io.Discard})
				if err != nil {
					t.Fatal(err)
				}
				defer tel.Close(t.Context())
				attempts := 0
				p := &process{
					env:  Env{DiscoveryAt: &at, Discovery: reluctant{registry.NewMemory(0), func() error { attempts++; return c.fail(attempts) }}},
					site: Site{Region: "eu"}, service: ServiceIMServer, binding: Binding{ID: "i"}, until: time.Now().Add(10 * time.Second),
					tel: tel,
				}
				register := registerAtOnce
				if later {
					register = registerLater
				}
				begun := time.Now()
				err = register(t, p)
				took := time.Since(begun)
				if (err == nil) != c.listed || (took > 0) != c.waits || took > 11*time.Second {
					t.Fatalf("%s, later %v: %v after %v", c.name, later, err, took)
				}
				if err == nil {
					return
				}
				if _, ok := errors.AsType[*BackendError](err); !ok || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s, later %v: it says %q", c.name, later, err)
				}
			})
		}
	}
}

// registerAtOnce lists a process, and ends it.
func registerAtOnce(t *testing.T, p *process) error {
	l, err := p.list(t.Context(), p.instance("h:1"))
	if err == nil {
		l.lease.Close()
	}
	return err
}

// registerLater lists a process when it has begun, and ends it once it is listed.
func registerLater(t *testing.T, p *process) error {
	begun := make(chan struct{})
	if _, err := p.listWhile(t.Context(), p.instance("h:1"), tenure{begun: begun}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = p.env.Discovery.Watch(ctx, p.service, p.site.Region, func(all []im.Instance) {
			if len(all) == 0 {
				return
			}
			synctest.Wait()
			if err := p.tel.Unready(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		})
	}()
	if err := p.tel.Unready(ctx); err == nil {
		t.Error("ready, and nobody finds it")
	}
	close(begun)
	err := p.Run(ctx)
	cancel()
	<-watched
	return err
}
