package client

import (
	"cmp"
	"context"
	"errors"
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
	network string // kind of network, told to ipconfs
	moves   uint64 // how often the network changed
	list    []wire.Endpoint
	policy  wire.Policy
	fetched time.Time // of list; zero: never
	ttl     time.Duration
	first   int // index of the ipconf that answered last
	last    string
	lead    []wire.Endpoint   // where a goaway leads: before all others, once
	tried   map[string]*trial // by wire.Endpoint.Key
	rtt     map[im.Region]time.Duration
	offset  time.Duration // server clock minus own, by an ipconf's answer
	after   time.Time     // an ipconf said not to ask before, nor to use an old list

	etag      string // of list, with the base URL that gave it; an ipconf says by it that the list is still good
	etagFrom  string
	catalogue wire.Catalogue // the last whose signature was good
	signed    []byte         // it, as it came
	restored  bool           // the stored list was looked for
}

const (
	maxFailed       = 8  // gateways that an ipconf is told of
	maxAlternatives = 16 // gateways taken of a goaway
)

// trial is what became of dialling a gateway.
type trial struct {
	failures int
	until    time.Time // left for last until then
	told     bool      // an ipconf was told
}

func newEndpoints(cfg *Config) *endpoints {
	return &endpoints{
		cfg: cfg, network: cfg.Network, list: cfg.Endpoints, policy: cfg.Policy,
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
// last list stands, however old: at first the one that was stored, or Config.Endpoints. An ipconf that says when to come
// back is obeyed: others would say the same, and the last list leads where there is no room.
//
// Of a list that was not asked for now, only the first few are returned: they may be gone, and the ipconf knows better.
func (e *endpoints) get(ctx context.Context, uid im.UID, device im.DeviceID, force bool) ([]wire.Endpoint, error) {
	e.restore(ctx)
	e.mu.Lock()
	fresh := !e.fetched.IsZero() && time.Since(e.fetched) < e.ttl
	first, width, held, moves := e.first, e.policy.RaceWidth, time.Until(e.after), e.moves
	e.mu.Unlock()
	if len(e.cfg.IPConf) == 0 {
		return e.ordered(), nil
	}
	if held > 0 {
		return nil, &im.Error{Code: im.CodeOverloaded, Detail: "an ipconf said when to come back", RetryAfter: held}
	}
	if fresh && !force {
		list := e.ordered()
		return list[:min(len(list), max(width, 2))], nil
	}
	answer, err := e.fetch(ctx, first, e.query(uid, device))
	if err != nil {
		if said, ok := errors.AsType[*im.Error](err); ok && toldToWait(said) {
			e.mu.Lock()
			e.after = time.Now().Add(said.RetryAfter)
			e.mu.Unlock()
			return nil, said
		}
		if list := e.ordered(); len(list) > 0 {
			e.cfg.Logger.Debug("no ipconf answers; the last list stands", "error", err)
			return list, nil
		}
		return nil, err
	}
	e.take(answer, moves)
	list := e.ordered()
	if len(list) == 0 {
		return nil, im.Errorf(im.CodeUnavailable, "ipconf %s knows of no gateway that takes newcomers", answer.base)
	}
	e.store(ctx)
	return list, nil
}

// toldToWait tells whether an ipconf said when to come back: there is no room, or many come, or many from this address.
func toldToWait(said *im.Error) bool {
	return (said.Code == im.CodeOverloaded || said.Code == im.CodeTooManyRequests) && said.RetryAfter > 0
}

// take makes an answer the list.
func (e *endpoints) take(a listAnswer, moves uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if moves != e.moves { // it was asked in another network: better than none
		if !a.unchanged {
			e.list = a.list.Gateways
		}
		return
	}
	e.fetched, e.first = time.Now(), a.from
	for _, t := range e.tried { // what failed was told
		t.told = true
	}
	if a.unchanged {
		return
	}
	e.list, e.policy = a.list.Gateways, a.list.Policy
	e.ttl = max(ms(a.list.TTLMs), time.Second)
	e.etag, e.etagFrom = a.etag, a.base
	if a.list.ServerTimeMs > 0 {
		e.offset = time.Until(time.UnixMilli(a.list.ServerTimeMs))
	}
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

// alternatives notes where a goaway leads, by WebSocket URL: gateways of the list, else as the signed catalogue has them, else, where
// nothing needs to be signed, by the URL alone.
func (e *endpoints) alternatives(urls []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lead = nil
	for _, u := range urls[:min(len(urls), maxAlternatives)] {
		byURL := func(g wire.Endpoint) bool { return g.URL == u }
		if i := slices.IndexFunc(e.list, byURL); i >= 0 {
			e.lead = append(e.lead, e.list[i])
		} else if i := slices.IndexFunc(e.catalogue.Gateways, byURL); i >= 0 {
			e.lead = append(e.lead, e.catalogue.Gateways[i])
		} else if len(e.cfg.CatalogueKeys) == 0 {
			e.lead = append(e.lead, wire.Endpoint{ID: u, URL: u})
		}
	}
}

// takeAlternatives returns them once: when they lead nowhere, the list goes on.
func (e *endpoints) takeAlternatives() []wire.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	lead := e.lead
	e.lead = nil
	return lead
}

// ahead puts the first gateways before a list.
func ahead(first, list []wire.Endpoint) []wire.Endpoint {
	return append(slices.Clone(first), slices.DeleteFunc(slices.Clone(list), func(g wire.Endpoint) bool {
		return slices.ContainsFunc(first, func(f wire.Endpoint) bool { return f.URL == g.URL })
	})...)
}

// heldBack tells whether an ipconf has said to wait.
func (e *endpoints) heldBack() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.after)
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
	t.told = false
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
	if r == "" { // known by its URL alone
		return
	}
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
	set("network", e.network)
	set("region", string(e.cfg.Region))
	set("last", e.last)
	var rtts []string
	for r, d := range e.rtt {
		rtts = append(rtts, string(r)+":"+strconv.FormatInt(max(d.Milliseconds(), 1), 10))
	}
	slices.Sort(rtts)
	set("rtt", strings.Join(rtts, ","))
	var failed []string
	for key, t := range e.tried {
		if t.failures > 0 && !t.told {
			failed = append(failed, key)
		}
	}
	slices.Sort(failed)
	set("failed", strings.Join(failed[:min(len(failed), maxFailed)], ","))
	set("home", string(e.cfg.Home))
	return q.Encode()
}
