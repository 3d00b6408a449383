package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// listAnswer is an ipconf's answer.
type listAnswer struct {
	list      wire.Endpoints
	etag      string
	unchanged bool // the list that the client has is still good
	base      string
	from      int // index among the ipconfs asked
}

// bases are the ipconfs to ask: the configured ones, then those that the signed catalogue names.
func (e *endpoints) bases() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := append([]string(nil), e.cfg.IPConf...)
	const more = 4 // of the catalogue: enough to find one that lives
	for i := 0; i < len(e.catalogue.IPConfs) && i < more; i++ {
		list = append(list, e.catalogue.IPConfs[i])
	}
	return list
}

// fetch asks the ipconfs, the last good one first, each next one after hedgeAfter or when one fails. The first good
// answer wins; so does the first that says when to come back.
func (e *endpoints) fetch(ctx context.Context, first int, query string) (listAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, ms(e.currentPolicy().ConnectTimeoutMs))
	defer cancel()
	bases := e.bases()
	n := len(bases)
	type result struct {
		answer listAnswer
		err    error
	}
	results := make(chan result, n)
	ask := func(i int) {
		a, err := e.ask(ctx, bases[i], query)
		a.base, a.from = bases[i], i
		if err == nil && !a.unchanged {
			err = e.trust(ctx, &a)
		}
		results <- result{a, err}
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
		case r := <-results:
			if r.err == nil {
				return r.answer, nil
			}
			if said, ok := asError(r.err); ok && toldToWait(said) {
				return listAnswer{}, said
			}
			errs = append(errs, r.err)
			next.Reset(0)
		case <-ctx.Done():
			return listAnswer{}, fmt.Errorf("ask ipconfs for gateways: %w", context.Cause(ctx))
		}
	}
	return listAnswer{}, fmt.Errorf("ask ipconfs for gateways: %w", errors.Join(errs...))
}

// read gets a document of an ipconf.
func (e *endpoints) read(ctx context.Context, u, etag string, limit int64) (status int, head http.Header, b []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	resp, err := e.cfg.HTTP.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return resp.StatusCode, resp.Header, b, err
}

func (e *endpoints) ask(ctx context.Context, base, query string) (listAnswer, error) {
	u := strings.TrimSuffix(base, "/") + "/v1/endpoints"
	if query != "" {
		u += "?" + query
	}
	etag := ""
	e.mu.Lock()
	if e.etagFrom == base && len(e.list) > 0 && !strings.Contains(query, "failed=") {
		etag = e.etag
	}
	e.mu.Unlock()
	status, head, b, err := e.read(ctx, u, etag, wire.MaxEndpointsBytes)
	if err != nil {
		return listAnswer{}, fmt.Errorf("ipconf %s: %w", base, err)
	}
	switch {
	case status == http.StatusNotModified && etag != "":
		return listAnswer{unchanged: true}, nil
	case status != http.StatusOK:
		if said, err := decodeHTTPError(head.Get("Content-Type"), b); err == nil {
			return listAnswer{}, fmt.Errorf("ipconf %s: %w", base, remoteError(said))
		}
		return listAnswer{}, fmt.Errorf("ipconf %s answered status %d with %d bytes", base, status, len(b))
	}
	list, err := wire.DecodeEndpoints(b)
	return listAnswer{list: list, etag: head.Get("ETag")}, err
}

// trust takes those gateways of an answer that a signed catalogue names, where the client has keys. It gets the catalogue if
// the answer is of another one. An answer without any such gateway is an error, as one of an impostor.
func (e *endpoints) trust(ctx context.Context, a *listAnswer) error {
	if len(e.cfg.CatalogueKeys) == 0 {
		return nil
	}
	e.mu.Lock()
	have := e.catalogue
	e.mu.Unlock()
	if have.Version == "" || have.Version != a.list.Catalogue || !time.Now().Before(time.UnixMilli(have.UntilMs)) {
		status, _, b, err := e.read(ctx, strings.TrimSuffix(a.base, "/")+"/v1/catalogue", "", wire.MaxCatalogueBytes)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		var c wire.Catalogue
		if err == nil {
			c, err = wire.OpenCatalogue(b, e.cfg.CatalogueKeys, time.Now())
		}
		if err != nil {
			return fmt.Errorf("ipconf %s: its list cannot be trusted: %w", a.base, err)
		}
		e.mu.Lock()
		if c.IssuedMs >= e.catalogue.IssuedMs || c.Version == a.list.Catalogue { // no older one takes its place
			e.catalogue, e.signed = c, b
		}
		have = e.catalogue
		e.mu.Unlock()
	}
	kept := inCatalogue(a.list.Gateways, have)
	if len(kept) == 0 && len(a.list.Gateways) > 0 {
		return fmt.Errorf("ipconf %s: none of its %d gateways is in the signed catalogue", a.base, len(a.list.Gateways))
	}
	a.list.Gateways = kept
	return nil
}

// inCatalogue keeps the gateways that a catalogue names, with their addresses.
func inCatalogue(list []wire.Endpoint, c wire.Catalogue) []wire.Endpoint {
	named := make(map[wire.Endpoint]bool, len(c.Gateways))
	for _, g := range c.Gateways {
		g.Score = 0
		named[g] = true
	}
	var kept []wire.Endpoint
	for _, g := range list {
		plain := g
		plain.Score = 0
		if named[plain] {
			kept = append(kept, g)
		}
	}
	return kept
}

// someOf picks gateways at random, those of the preferred regions first: all who have but a catalogue must not meet at its top.
func (e *endpoints) someOf(all []wire.Endpoint) []wire.Endpoint {
	const most = 16
	list := slices.Clone(all)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	near := func(g wire.Endpoint) int {
		if r := g.Region; r != e.cfg.Region && r != e.cfg.Home {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b wire.Endpoint) int { return near(a) - near(b) })
	return list[:min(len(list), most)]
}

// savedList is what an installation keeps of the list.
type savedList struct {
	List   wire.Endpoints  `json:"list"`
	Signed json.RawMessage `json:"signed,omitempty"`
}

// store keeps the list for the next start. It is a fallback: what cannot be written is told and forgotten.
func (e *endpoints) store(ctx context.Context) {
	s, ok := e.cfg.Store.(ListStore)
	if !ok {
		return
	}
	e.mu.Lock()
	b, err := json.Marshal(savedList{wire.Endpoints{Gateways: e.list, Policy: e.policy, TTLMs: e.ttl.Milliseconds()}, e.signed})
	e.mu.Unlock()
	if err == nil {
		err = s.SaveList(ctx, b)
	}
	if err != nil {
		e.cfg.Logger.Debug("the list of gateways was not stored", "error", err)
	}
}

// restore takes the stored list, once, if there is no other: as much of it as the signed catalogue beside it names, where the
// client has keys. Without a good one it takes the gateways of the catalogue that is still good.
func (e *endpoints) restore(ctx context.Context) {
	s, ok := e.cfg.Store.(ListStore)
	e.mu.Lock()
	done := e.restored || !e.fetched.IsZero()
	e.restored = true
	e.mu.Unlock()
	if !ok || done {
		return
	}
	b, err := s.LoadList(ctx)
	if err != nil || len(b) == 0 {
		return
	}
	var saved savedList
	if err := json.Unmarshal(b, &saved); err != nil {
		e.cfg.Logger.Debug("the stored list of gateways is damaged", "error", err)
		return
	}
	list := saved.List.Gateways
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.cfg.CatalogueKeys) > 0 {
		c, err := wire.OpenCatalogue(saved.Signed, e.cfg.CatalogueKeys, time.Now())
		if err != nil {
			e.cfg.Logger.Debug("the stored list of gateways cannot be trusted", "error", err)
			return
		}
		e.catalogue, e.signed = c, saved.Signed
		if list = inCatalogue(list, c); len(list) == 0 {
			list = e.someOf(c.Gateways)
		}
	}
	if len(list) > 0 { // the configured ones stay behind it
		e.list = append(list, e.list...)
		e.policy = saved.List.Policy.Within()
	}
}
