package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// hedgeAfter is how long one ipconf is waited for before the next is asked beside it.
const hedgeAfter = 500 * time.Millisecond

// endpoints is the list of gateways: asked of ipconfs, kept as a fallback, and what this client found out by trying.
type endpoints struct {
	cfg *Config

	mu      sync.Mutex
	list    []wire.Endpoint
	policy  wire.Policy
	fetched time.Time // of list; zero: never
	ttl     time.Duration
	first   int // index of the ipconf that answered last
	last    string
	tried   map[string]*trial // by wire.Endpoint.Key
	rtt     map[im.Region]time.Duration
	offset  time.Duration // server clock minus own, by an ipconf's answer
}

// trial is what became of dialling a gateway.
type trial struct {
	failures int
	until    time.Time // left for last until then
}

func newEndpoints(cfg *Config) *endpoints {
	return &endpoints{
		cfg: cfg, list: cfg.Endpoints, policy: cfg.Policy,
		tried: map[string]*trial{}, rtt: map[im.Region]time.Duration{},
	}
}

// currentPolicy is the latest that an ipconf told.
func (e *endpoints) currentPolicy() wire.Policy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.policy
}

// clock is the server's clock minus the own one, as far as an ipconf told.
func (e *endpoints) clock() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.offset
}

// get returns gateways to try, best first. It asks an ipconf if the list is old, or with force; if none answers, the
// last list stands, however old.
func (e *endpoints) get(ctx context.Context, uid im.UID, device im.DeviceID, force bool) ([]wire.Endpoint, error) {
	e.mu.Lock()
	fresh := !e.fetched.IsZero() && time.Since(e.fetched) < e.ttl
	first := e.first
	e.mu.Unlock()
	if fresh && !force || len(e.cfg.IPConf) == 0 {
		return e.ordered(), nil
	}
	answer, from, err := e.fetch(ctx, first, e.query(uid, device))
	if err != nil {
		if list := e.ordered(); len(list) > 0 {
			e.cfg.Logger.Debug("no ipconf answers; the last list stands", "error", err)
			return list, nil
		}
		return nil, err
	}
	e.mu.Lock()
	e.list, e.policy, e.fetched, e.first = answer.Gateways, answer.Policy, time.Now(), from
	e.ttl = max(ms(answer.TTLMs), time.Second)
	if answer.ServerTimeMs > 0 {
		e.offset = time.Until(time.UnixMilli(answer.ServerTimeMs))
	}
	e.mu.Unlock()
	list := e.ordered()
	if len(list) == 0 {
		return nil, im.Errorf(im.CodeUnavailable, "ipconf %s knows of no gateway that takes newcomers", e.cfg.IPConf[from])
	}
	return list, nil
}

// ordered is the list with those that failed lately last, the least recently failed first among them.
func (e *endpoints) ordered() []wire.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	list := slices.Clone(e.list)
	until := func(g wire.Endpoint) int64 {
		if t := e.tried[g.Key()]; t != nil && t.until.After(now) {
			return t.until.UnixNano()
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b wire.Endpoint) int { return cmp.Compare(until(a), until(b)) })
	return list
}

// avoid leaves a gateway for last for a while.
func (e *endpoints) avoid(key string, d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trialOf(key).until = time.Now().Add(d)
}

func (e *endpoints) trialOf(key string) *trial {
	t := e.tried[key]
	if t == nil {
		if len(e.tried) > 256 { // gateways come and go; what was learned of them is a hint
			clear(e.tried)
		}
		t = new(trial)
		e.tried[key] = t
	}
	return t
}

// failed notes that a gateway could not be used.
func (e *endpoints) failed(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.trialOf(key)
	t.failures++
	t.until = time.Now().Add(backoff(e.policy, t.failures, 0))
}

// avoided tells whether a gateway is to be left for last now.
func (e *endpoints) avoided(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tried[key]
	return t != nil && time.Now().Before(t.until)
}

// expire makes the next get ask an ipconf.
func (e *endpoints) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fetched = time.Time{}
}

// used notes that one was, and that it is the one to come back to.
func (e *endpoints) used(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tried, key)
	e.last = key
}

// measured notes how long a TCP connection to a region took: about one round trip.
func (e *endpoints) measured(r im.Region, d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if old, ok := e.rtt[r]; ok {
		d = (3*old + d) / 4
	}
	if len(e.rtt) < 64 {
		e.rtt[r] = d
	}
}

func (e *endpoints) query(uid im.UID, device im.DeviceID) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	q := url.Values{}
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	set("uid", string(uid))
	set("device", string(device))
	set("platform", string(e.cfg.Platform))
	set("network", e.cfg.Network)
	set("region", string(e.cfg.Region))
	set("last", e.last)
	var rtts []string
	for r, d := range e.rtt {
		rtts = append(rtts, string(r)+":"+strconv.FormatInt(max(d.Milliseconds(), 1), 10))
	}
	slices.Sort(rtts)
	set("rtt", strings.Join(rtts, ","))
	return q.Encode()
}

// fetch asks the ipconfs, the last good one first, each next one after hedgeAfter or when one fails. The first good
// answer wins.
func (e *endpoints) fetch(ctx context.Context, first int, query string) (wire.Endpoints, int, error) {
	ctx, cancel := context.WithTimeout(ctx, ms(e.currentPolicy().ConnectTimeoutMs))
	defer cancel()
	type answer struct {
		list wire.Endpoints
		from int
		err  error
	}
	n := len(e.cfg.IPConf)
	answers := make(chan answer, n)
	ask := func(i int) {
		list, err := e.ask(ctx, e.cfg.IPConf[i], query)
		answers <- answer{list, i, err}
	}
	var wg sync.WaitGroup
	defer wg.Wait() // after cancel: defers run last in, first out
	defer cancel()
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for started := 0; len(errs) < n; {
		select {
		case <-next.C:
			if started < n {
				i := (first + started) % n
				started++
				wg.Go(func() { ask(i) })
				next.Reset(hedgeAfter)
			}
		case a := <-answers:
			if a.err == nil {
				return a.list, a.from, nil
			}
			errs = append(errs, a.err)
			next.Reset(0)
		case <-ctx.Done():
			return wire.Endpoints{}, 0, fmt.Errorf("ask ipconfs for gateways: %w", context.Cause(ctx))
		}
	}
	return wire.Endpoints{}, 0, fmt.Errorf("ask ipconfs for gateways: %w", errors.Join(errs...))
}

func (e *endpoints) ask(ctx context.Context, base, query string) (wire.Endpoints, error) {
	u := strings.TrimSuffix(base, "/") + "/v1/endpoints"
	if query != "" {
		u += "?" + query
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return wire.Endpoints{}, err
	}
	resp, err := e.cfg.HTTP.Do(r)
	if err != nil {
		return wire.Endpoints{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxEndpointsBytes+1))
	if err != nil {
		return wire.Endpoints{}, fmt.Errorf("ipconf %s: %w", base, err)
	}
	if resp.StatusCode != http.StatusOK || len(b) > wire.MaxEndpointsBytes {
		return wire.Endpoints{}, fmt.Errorf("ipconf %s answered %s with %d bytes", base, resp.Status, len(b))
	}
	return wire.DecodeEndpoints(b)
}
