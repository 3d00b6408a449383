// Package fakedev is a stand-in for `antipode dev` in one small process without Kafka, PostgreSQL or Redis: gateways and
// ipconfs that speak the client protocol in JSON, regions that ship their records to each other over links with delay
// and cuts, and the API behind the console page. It serves work on the pages and hermetic tests of them; it checks
// little and keeps nothing.
//
//	page ──▶ console.New(World, …)
//	  ├────▶ ipconf of each region      (HTTP)
//	  └────▶ two gateways of each       (WebSocket, HTTP pull) ──▶ region: log ──links──▶ other regions' views
package fakedev

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/console"
)

// World is all regions. One mutex guards everything: it is a fake.
type World struct {
	mu      sync.Mutex
	names   []im.Region
	regions map[im.Region]*region
	links   []*link
	traces  []*trace // oldest first, bounded
	refuse  int      // submits to refuse
	blocked bool     // no WebSocket gets through
	noPolls bool     // nor does a long poll
	resumes int      // sessions taken up again
	cancels int      // calls taken back
	ctx     context.Context
	done    sync.WaitGroup
}

// region has a log of its own and a view of all logs.
type region struct {
	name     im.Region
	up       bool
	killed   time.Time // if it is not
	ipconf   *server
	gateways []*gateway
	log      []*entry
	convs    map[string]*conv
	clock    im.Clock
	offsets  map[im.Region]int // entries of each origin applied: the list cursor of this fake
	lag      map[im.Origin]float64
	accepted *meter
	stalled  bool // pulls in frames get no answer
}

// link ships from's log to to.
type link struct {
	from, to *region
	cut      bool
	delay    time.Duration
	at       int // next entry to ship
}

// New returns a world of regions with a delay between them.
func New(delay time.Duration, names ...im.Region) *World {
	slices.Sort(names)
	w := &World{names: names, regions: map[im.Region]*region{}}
	for _, name := range names {
		r := &region{name: name, convs: map[string]*conv{}, offsets: map[im.Region]int{}, lag: map[im.Origin]float64{}, accepted: &meter{}}
		r.ipconf = &server{handler: w.ipconf(r)}
		for i := range 2 {
			r.gateways = append(r.gateways, newGateway(w, r, fmt.Sprintf("gateway-%d", i+1)))
		}
		w.regions[name] = r
	}
	for _, from := range names {
		for _, to := range names {
			if from != to {
				w.links = append(w.links, &link{from: w.regions[from], to: w.regions[to], delay: delay})
			}
		}
	}
	return w
}

// Start listens on loopback and runs until ctx ends; Wait returns when everything has stopped.
func (w *World) Start(ctx context.Context) error {
	w.ctx = ctx
	for _, name := range w.names {
		if err := w.startRegion(w.regions[name]); err != nil {
			return err
		}
	}
	w.done.Go(func() {
		tick := time.NewTicker(4 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				for _, name := range w.names {
					w.stopRegion(w.regions[name])
				}
				return
			case now := <-tick.C:
				w.ship(now)
			}
		}
	})
	return nil
}

// Wait blocks until the world has stopped.
func (w *World) Wait() { w.done.Wait() }

// Handler is the console over this world.
func (w *World) Handler() (http.Handler, error) { return w.HandlerWith(console.Config{}) }

// HandlerWith is the console with a config; its endpoints are set here.
func (w *World) HandlerWith(cfg console.Config) (http.Handler, error) {
	for _, name := range w.names {
		cfg.Endpoints = append(cfg.Endpoints, console.Endpoint{Region: name, IPConf: w.regions[name].ipconf.url()})
	}
	return console.New(cfg, console.Deps{Watcher: w, Links: w, Switch: w, Tokens: w.Token, Traces: w})
}

// Token issues what this world's gateways take for a token.
func (w *World) Token(uid im.UID) (string, time.Time, error) {
	return "fake." + string(uid), time.Now().Add(time.Hour), nil
}

func (w *World) startRegion(r *region) error {
	if err := r.ipconf.start(); err != nil {
		return err
	}
	for _, g := range r.gateways {
		if err := g.server.start(); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.up = true
	return nil
}

func (w *World) stopRegion(r *region) {
	w.mu.Lock()
	r.up, r.killed = false, time.Now()
	w.mu.Unlock()
	r.ipconf.kill()
	for _, g := range r.gateways {
		g.kill()
	}
}

// ship moves what is due over every open link.
func (w *World) ship(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.links {
		for !l.cut && l.from.up && l.to.up && l.at < len(l.from.log) && now.Sub(l.from.log[l.at].at) >= l.delay {
			e := l.from.log[l.at]
			l.at++
			w.span(e, "ship", l.from.name, "replicator", now.Add(-l.delay), now)
			l.to.apply(w, l.from.name, e, now)
		}
	}
}

// State implements console.Watcher.
func (w *World) State(context.Context) (console.State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	s := console.State{NowMS: now.UnixMilli(), Version: "fake"}
	for _, name := range w.names {
		r := w.regions[name]
		for _, g := range r.gateways {
			power, conns := console.PowerDown, 0
			if g.server.running() {
				power = console.PowerUp
			}
			for _, c := range g.sessions {
				if c.conn != nil {
					conns++
				}
			}
			s.Gateways = append(s.Gateways, console.Gateway{
				Region: name, ID: g.id, URL: g.wsURL(), State: power, Conns: conns, Rate: g.frames.rate(now), Epoch: g.epoch,
			})
		}
		power := console.PowerDown
		if r.up {
			power = console.PowerUp
		}
		lag := map[im.Origin]float64{}
		for o, seconds := range r.lag {
			lag[o] = seconds
		}
		s.Regions = append(s.Regions, console.Region{
			Name: name, Origin: im.Origin(name), State: power, IPConf: r.ipconf.url(),
			SubmitRate: r.accepted.rate(now), ApplyLag: lag, Log: int64(len(r.log)),
		})
	}
	for _, l := range w.links {
		out := console.Link{From: l.from.name, To: l.to.name, State: console.LinkOpen, DelayMS: l.delay.Milliseconds()}
		out.LagRecords = int64(len(l.from.log) - l.at)
		if out.LagRecords > 0 {
			out.LagSeconds = now.Sub(l.from.log[l.at].at).Seconds()
		}
		switch {
		case l.cut:
			out.State, out.LastError = console.LinkCut, "cut from the console"
		case !l.from.up || !l.to.up:
			out.State = console.LinkConnecting
			down := l.from
			if l.from.up {
				down = l.to
			}
			out.LastError = fmt.Sprintf("region %s refuses connections", down.name)
			if !l.to.up {
				out.LagSeconds = max(out.LagSeconds, now.Sub(l.to.killed).Seconds())
			}
		}
		s.Links = append(s.Links, out)
	}
	return s, nil
}

func (w *World) link(from, to im.Region, change func(*link)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.links {
		if l.from.name == from && l.to.name == to {
			change(l)
			return nil
		}
	}
	return fmt.Errorf("link %s to %s: %w", from, to, console.ErrUnknown)
}

// Cut implements console.Links.
func (w *World) Cut(_ context.Context, from, to im.Region) error {
	return w.link(from, to, func(l *link) { l.cut = true })
}

// Heal implements console.Links.
func (w *World) Heal(_ context.Context, from, to im.Region) error {
	return w.link(from, to, func(l *link) { l.cut = false })
}

// Delay implements console.Links.
func (w *World) Delay(_ context.Context, from, to im.Region, delay time.Duration) error {
	return w.link(from, to, func(l *link) { l.delay = delay })
}

// Kill implements console.Switch.
func (w *World) Kill(_ context.Context, t console.Target) error {
	r, g, err := w.target(t)
	if err != nil {
		return err
	}
	if g != nil {
		g.kill()
	} else {
		w.stopRegion(r)
	}
	return nil
}

// Restart implements console.Switch.
func (w *World) Restart(_ context.Context, t console.Target) error {
	r, g, err := w.target(t)
	if err != nil {
		return err
	}
	if g != nil {
		return g.server.start()
	}
	return w.startRegion(r)
}

func (w *World) target(t console.Target) (*region, *gateway, error) {
	r, ok := w.regions[t.Region]
	if !ok {
		return nil, nil, fmt.Errorf("region %s: %w", t.Region, console.ErrUnknown)
	}
	if t.Gateway == "" {
		return r, nil, nil
	}
	for _, g := range r.gateways {
		if g.id == t.Gateway {
			return r, g, nil
		}
	}
	return nil, nil, fmt.Errorf("gateway %s: %w", t.Gateway, console.ErrUnknown)
}

// meter is a rate over the last two to three seconds.
type meter struct {
	times []time.Time
}

func (m *meter) hit(now time.Time) { m.times = append(m.times, now) }

func (m *meter) rate(now time.Time) float64 {
	i := slices.IndexFunc(m.times, func(t time.Time) bool { return now.Sub(t) < 3*time.Second })
	if i < 0 {
		i = len(m.times)
	}
	m.times = m.times[i:]
	return float64(len(m.times)) / 3
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
