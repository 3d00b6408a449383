package app

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/wire"
)

// What the console shows of links and gateways, as Prometheus sees it.
const (
	metricConns      = "antipode_gateway_conns"
	metricLinkOpen   = "antipode_replicator_link_open_ratio/in"
	metricRefused    = "antipode_replicator_partitions_refused"
	metricLinkLag    = "antipode_replicator_lag"
	metricLinkAge    = "antipode_replicator_lag_age_seconds"
	metricLinkBehind = "antipode_replicator_behind"
)

const (
	scrapeEvery   = time.Second
	scrapeTimeout = 2 * time.Second
)

// clusterWatcher tells the console what a cluster does: from its members' states, and from their /metrics, which it reads
// when somebody looks, at most once a second.
type clusterWatcher struct {
	c *Cluster

	looking sync.Mutex // one look at a time; the others wait for it and share what it saw
	at      time.Time
	state   console.State
	samples map[string]sample // by member, of the last look
	before  map[string]sample // of the look before
	closed  map[linkName]time.Time
}

func newClusterWatcher(c *Cluster) *clusterWatcher {
	return &clusterWatcher{c: c, samples: map[string]sample{}, before: map[string]sample{}, closed: map[linkName]time.Time{}}
}

// State returns a state at most a second old.
func (w *clusterWatcher) State(ctx context.Context) (console.State, error) {
	w.looking.Lock()
	defer w.looking.Unlock()
	w.look(ctx)
	return w.state, nil
}

// openLinks lists the links that carry records.
func (w *clusterWatcher) openLinks(ctx context.Context) map[linkName]bool {
	w.looking.Lock()
	defer w.looking.Unlock()
	w.at = time.Time{} // who waits for something to open wants to know at once
	w.look(ctx)
	open := map[linkName]bool{}
	for _, l := range w.state.Links {
		open[linkName{l.From, l.To}] = l.State == console.LinkOpen
	}
	return open
}

func (w *clusterWatcher) look(ctx context.Context) {
	if time.Since(w.at) < scrapeEvery {
		return
	}
	w.scrape(ctx)
	w.at = time.Now()
	plan := w.c.Plan()
	members := map[string]cluster.Status{}
	for _, s := range w.c.Status() {
		members[s.Name] = s
	}
	state := console.State{NowMS: time.Now().UnixMilli(), Data: plan.Data}
	for i := range plan.Regions {
		r := &plan.Regions[i]
		region := w.region(r, members)
		for _, m := range r.Of(ServiceGateway) {
			gw := w.gateway(m, members[m.Name])
			state.Gateways = append(state.Gateways, gw)
		}
		state.Regions = append(state.Regions, region)
	}
	for _, l := range w.c.Links() {
		state.Links = append(state.Links, w.link(l, members))
	}
	sortState(&state)
	w.state = state
}

// scrape reads the metrics of what is up and shown.
func (w *clusterWatcher) scrape(ctx context.Context) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	now := map[string]sample{}
	for _, s := range w.c.Status() {
		shown := s.Kind == ServiceIMServer || s.Kind == ServiceGateway || s.Kind == ServiceReplicator
		if !shown || s.State != cluster.StateUp && s.State != cluster.StateStarting {
			continue
		}
		wg.Go(func() {
			read, err := scrape(ctx, s.Admin)
			if err != nil {
				return // it is starting, or hangs: its member's state says so
			}
			mu.Lock()
			now[s.Name] = read
			mu.Unlock()
		})
	}
	wg.Wait()
	w.before, w.samples = w.samples, now
}

func scrape(ctx context.Context, admin string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return sample{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return sample{}, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return sample{}, fmt.Errorf("metrics of %s: %w", admin, err)
	}
	all := sampleOf(nil)
	for _, f := range families {
		all.add(f)
	}
	return all, nil
}

// region sums up a region's members.
func (w *clusterWatcher) region(r *cluster.RegionPlan, members map[string]cluster.Status) console.Region {
	region := console.Region{
		Name: r.Name, Origin: r.Origin, State: console.PowerUp, IPConf: r.IPConf(), ApplyLag: map[im.Origin]float64{},
	}
	var unwell []string
	running, starting := 0, false
	for _, m := range r.Members {
		s := members[m.Name]
		switch s.State {
		case cluster.StateDown, cluster.StateExited:
		case cluster.StateStarting, cluster.StateRestarting:
			running, starting = running+1, true
		default:
			running++
		}
		if !s.Ready {
			unwell = append(unwell, fmt.Sprintf("%s %s: %s", m.Part, s.State, s.Why))
		}
		if m.Kind == ServiceIMServer {
			now, before := w.samples[m.Name], w.before[m.Name]
			region.SubmitRate += rate(now, before, metricCalls+"/submit")
			for origin, lag := range now.byOrigin[metricApplyLag] {
				region.ApplyLag[im.Origin(origin)] = max(region.ApplyLag[im.Origin(origin)], lag)
			}
		}
	}
	switch {
	case running == 0:
		region.State = console.PowerDown
	case starting:
		region.State = console.PowerStarting
	}
	region.Note = strings.Join(unwell, "; ")
	return region
}

func (w *clusterWatcher) gateway(m cluster.MemberPlan, s cluster.Status) console.Gateway {
	now, before := w.samples[m.Name], w.before[m.Name]
	gw := console.Gateway{
		Region: m.Region, ID: m.Part, URL: wire.WebSocketURL("http://" + m.Listen), State: memberPower(s),
		Conns: int(now.values[metricConns]),
	}
	if !before.at.IsZero() && !now.at.IsZero() {
		gw.Rate = rate(now, before, metricForwarded) + rate(now, before, metricPushed)
	}
	return gw
}

func memberPower(s cluster.Status) console.Power {
	switch s.State {
	case cluster.StateUp:
		return console.PowerUp
	case cluster.StateStarting, cluster.StateRestarting:
		return console.PowerStarting
	case cluster.StateStopping:
		return console.PowerDraining
	}
	return console.PowerDown // paused too: nobody answers
}

// link sums up both ends: the receiver knows what it lacks, the sender also when the receiver does not hear of it.
func (w *clusterWatcher) link(l cluster.LinkStatus, members map[string]cluster.Status) console.Link {
	name := linkName{l.From, l.To}
	shown := console.Link{From: l.From, To: l.To, State: console.LinkConnecting, DelayMS: l.Delay.Milliseconds()}
	behind, up := 0.0, map[im.Region]bool{}
	each := func(region im.Region, f func(sample)) {
		r, _ := w.c.Plan().Region(region)
		for _, m := range r.Of(ServiceReplicator) {
			up[region] = up[region] || members[m.Name].State == cluster.StateUp
			if s, ok := w.samples[m.Name]; ok {
				f(s)
			}
		}
	}
	each(l.To, func(s sample) {
		if s.byPeer[metricLinkOpen][string(l.From)] > 0 {
			shown.State = console.LinkOpen
		}
		if n := s.byPeer[metricRefused][string(l.From)]; n > 0 {
			shown.LastError = fmt.Sprintf("%.0f partitions are refused: the log of the replicator of %s says which, why, and what to do", n, l.To)
		}
		shown.LagRecords = max(shown.LagRecords, int64(s.byPeer[metricLinkLag][string(l.From)]))
		shown.LagSeconds = max(shown.LagSeconds, s.byPeer[metricLinkAge][string(l.From)])
	})
	each(l.From, func(s sample) { behind = max(behind, s.byPeer[metricLinkBehind][string(l.To)]) })
	for _, r := range []im.Region{l.To, l.From} {
		if !up[r] {
			shown.LastError = fmt.Sprintf("the replicator of %s is down", r)
		}
	}
	if l.Cut {
		shown.State = console.LinkCut
	}
	if shown.State == console.LinkOpen {
		delete(w.closed, name)
		return shown
	}
	since, known := w.closed[name]
	if !known {
		since = time.Now()
		w.closed[name] = since
	}
	if behind > 0 { // what the receiver last heard is old by now
		shown.LagRecords = max(shown.LagRecords, int64(behind))
		shown.LagSeconds = max(shown.LagSeconds, time.Since(since).Seconds())
	}
	shown.LastError = cmp.Or(shown.LastError, "not open")
	return shown
}
