package app

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/telemetry"
	"github.com/antipode-im/antipode/wire"
)

// The metrics that the console shows, as Prometheus sees them.
const (
	metricCalls     = "antipode_imserver_calls_total"
	metricApplyLag  = "antipode_imserver_lag_seconds"
	metricForwarded = "antipode_gateway_calls_total"
	metricPushed    = "antipode_gateway_pushes_total"
)

// watcher tells the console what dev does. It reads the metrics that /metrics serves once a second, as a monitoring system
// would, and the status of links.
type watcher struct {
	dev *Dev

	mu        sync.Mutex
	telemetry map[string]*telemetry.Telemetry // by region/instance
	samples   map[string]sample               // by region/instance
	state     console.State
	gone      map[linkName]time.Time // since when nobody receives; of the one who refreshes
}

// sample is what was read of an instance at one time.
type sample struct {
	at       time.Time
	values   map[string]float64            // sums of metric families
	byOrigin map[string]map[string]float64 // of families with the label origin
	byPeer   map[string]map[string]float64 // sums (of ages: maxima) of families with the label peer; family/direction where there is one
}

func newWatcher(d *Dev) *watcher {
	return &watcher{dev: d, telemetry: map[string]*telemetry.Telemetry{}, samples: map[string]sample{}, gone: map[linkName]time.Time{}}
}

func (w *watcher) watch(region im.Region, _, instance string, t *telemetry.Telemetry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.telemetry[string(region)+"/"+instance] = t
}

// unready names the first instance that must get no work, by its own account, and why.
func (w *watcher) unready(ctx context.Context) string {
	w.mu.Lock()
	all := maps.Clone(w.telemetry)
	w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := all[name].Unready(ctx); err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
	}
	return ""
}

func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		w.refresh(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// State returns the last state, at most a second old.
func (w *watcher) State(context.Context) (console.State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.NowMS == 0 {
		return console.State{}, errors.New("not started yet")
	}
	return w.state, nil
}

// read samples an instance and returns it with the one before.
func (w *watcher) read(instance string) (now, before sample) {
	w.mu.Lock()
	t := w.telemetry[instance]
	before = w.samples[instance]
	w.mu.Unlock()
	if t == nil {
		return sampleOf(nil), before
	}
	families, _ := t.Gatherer().Gather() // what could be gathered is returned beside the error
	now = sampleOf(families)
	w.mu.Lock()
	w.samples[instance] = now
	w.mu.Unlock()
	return now, before
}

// sampleOf adds up what /metrics serves.
func sampleOf(families []*dto.MetricFamily) sample {
	s := sample{
		at: time.Now(), values: map[string]float64{}, byOrigin: map[string]map[string]float64{}, byPeer: map[string]map[string]float64{},
	}
	for _, f := range families {
		s.add(f)
	}
	return s
}

func (s sample) add(f *dto.MetricFamily) {
	name := f.GetName()
	for _, m := range f.Metric {
		v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		s.values[name] += v
		if method := label(m, "method"); method != "" && label(m, "code") == "ok" {
			s.values[name+"/"+method] += v
		}
		if origin := label(m, "origin"); origin != "" {
			at(s.byOrigin, name)[origin] = max(s.byOrigin[name][origin], v)
		}
		if peer := label(m, "peer"); peer != "" {
			of := name
			if d := label(m, "direction"); d != "" {
				of += "/" + d
			}
			if sum := at(s.byPeer, of); strings.HasSuffix(name, "_seconds") { // ages do not add up
				sum[peer] = max(sum[peer], v)
			} else {
				sum[peer] += v
			}
		}
	}
}

func at(by map[string]map[string]float64, name string) map[string]float64 {
	if by[name] == nil {
		by[name] = map[string]float64{}
	}
	return by[name]
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// rate is how fast a counter grew between two samples, per second; 0 after a restart.
func rate(now, before sample, family string) float64 {
	seconds := now.at.Sub(before.at).Seconds()
	if before.at.IsZero() || seconds <= 0 {
		return 0
	}
	return max(0, (now.values[family]-before.values[family])/seconds)
}

func power(s UnitState) console.Power {
	switch s {
	case UnitUp:
		return console.PowerUp
	case UnitStarting:
		return console.PowerStarting
	}
	return console.PowerDown
}

func (w *watcher) refresh(ctx context.Context) {
	d := w.dev
	state := console.State{NowMS: time.Now().UnixMilli(), Data: d.cfg.Data}
	open := map[linkName]console.Link{}
	behind := map[linkName]int64{}     // by the sender, who knows the end of its log also when the receiver does not
	closed := map[linkName]time.Time{} // since when
	for _, r := range d.all() {
		name := r.site.Region
		unit, why := r.state()
		region := console.Region{
			Name: name, Origin: r.site.Origin, State: power(unit), IPConf: d.IPConf(name), ApplyLag: map[im.Origin]float64{},
		}
		if unit != UnitUp && why != nil {
			region.Note = why.Error()
		}
		if gone := d.postgresGone(); gone != "" {
			region.Note = gone
		}
		now, before := w.read(string(name) + "/imserver")
		region.SubmitRate = rate(now, before, metricCalls+"/submit")
		for origin, lag := range now.byOrigin[metricApplyLag] {
			region.ApplyLag[im.Origin(origin)] = lag
		}
		for id, u := range r.gateways {
			s, _ := u.State()
			gw := console.Gateway{Region: name, ID: id, State: power(s)}
			if g := r.gateway[id].Load(); g != nil {
				load := g.Load()
				gw.URL, gw.Conns, gw.Epoch = g.WebSocketURL(), load.Conns, load.Gateway.Epoch
				if load.Draining {
					gw.State = console.PowerDraining
				}
				now, before := w.read(string(name) + "/" + id)
				gw.Rate = rate(now, before, metricForwarded) + rate(now, before, metricPushed)
			}
			state.Gateways = append(state.Gateways, gw)
		}
		state.Regions = append(state.Regions, region)
		if repl := r.replicator.Load(); repl != nil {
			status := repl.Status()
			for _, out := range status.Out {
				behind[linkName{name, out.Peer}] = out.Behind
			}
			for _, in := range status.In {
				l := console.Link{From: in.Peer, To: name, State: console.LinkConnecting, LastError: in.Error}
				if in.Open {
					l.State = console.LinkOpen
				}
				if n := len(in.Refused); in.Open && n > 0 {
					l.LastError = fmt.Sprintf("%d partitions are refused, the first: %s", n, in.Refused[0].Reason)
				}
				for _, lag := range in.Lag {
					l.LagRecords += lag.Records
					l.LagSeconds = max(l.LagSeconds, lag.Seconds)
				}
				if !in.Open {
					closed[linkName{in.Peer, name}] = in.Since
				}
				open[linkName{in.Peer, name}] = l
			}
		}
	}
	for name, dl := range d.wires() {
		l, ok := open[name]
		if !ok {
			l = w.unreceived(name, behind[name], time.Now())
		} else {
			delete(w.gone, name)
		}
		if dl.cut.Load() {
			l.State = console.LinkCut
		}
		if since, ok := closed[name]; ok && behind[name] > 0 { // what the receiver last heard is old by now
			l.LagRecords = max(l.LagRecords, behind[name])
			l.LagSeconds = max(l.LagSeconds, time.Since(since).Seconds())
		}
		l.DelayMS = time.Duration(dl.delay.Load()).Milliseconds()
		state.Links = append(state.Links, l)
	}
	sortState(&state)
	w.mu.Lock()
	w.state = state
	w.mu.Unlock()
}

// unreceived is a link whose receiver is down: what the other end sends is missing there, and the longer the more. behind is what
// the sender knows to be missing.
func (w *watcher) unreceived(name linkName, behind int64, now time.Time) console.Link {
	since, known := w.gone[name]
	if !known {
		since = now
		w.gone[name] = now
	}
	return console.Link{
		From: name.from, To: name.to, State: console.LinkConnecting, LastError: "region " + string(name.to) + " is down",
		LagRecords: behind, LagSeconds: now.Sub(since).Seconds(),
	}
}

// countGateways asks an ipconf how many gateways it hands out.
func countGateways(ctx context.Context, ipconf string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ipconf+"/v1/endpoints", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("answers %s", resp.Status)
	}
	var list wire.Endpoints
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return 0, err
	}
	return len(list.Gateways), nil
}

// tokenSeed reads the seed of dev's signing key, or makes it.
func tokenSeed(path string) ([]byte, error) {
	seed, err := os.ReadFile(path)
	if err == nil {
		return seed, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("token key: %w", err)
	}
	seed = make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	if err := os.WriteFile(path, seed, 0o600); err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return seed, nil
}

// traces shows the console the spans of dev.
type traces struct{ store *telemetry.SpanStore }

// Recent lists traces that began lately, latest first.
func (t traces) Recent(_ context.Context, limit int) ([]console.Trace, error) {
	var list []console.Trace
	for _, s := range t.store.Recent(limit) {
		list = append(list, console.Trace{
			ID: s.ID, Root: s.Root.Name,
			Conversation: im.Conversation(s.Root.Attributes["antipode.conversation"]),
			StartUS:      s.Start.UnixMicro(), DurationUS: s.End.Sub(s.Start).Microseconds(),
			Spans: s.Spans, Regions: s.Regions, Error: s.Error,
		})
	}
	return list, nil
}

// Spans returns the spans of one trace.
func (t traces) Spans(_ context.Context, id string) ([]console.Span, error) {
	var list []console.Span
	for _, s := range t.store.Trace(id) {
		list = append(list, console.Span{
			ID: s.ID, Parent: s.Parent, Name: s.Name, Region: s.Region, Service: s.Service,
			StartUS: s.Start.UnixMicro(), DurationUS: s.End.Sub(s.Start).Microseconds(),
			Error: s.Error, Attributes: s.Attributes,
		})
	}
	return list, nil
}

func sortState(s *console.State) {
	slices.SortFunc(s.Regions, func(a, b console.Region) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Gateways, func(a, b console.Gateway) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(s.Links, func(a, b console.Link) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
}

// Spans returns the spans of one trace, by its id in hex.
func (d *Dev) Spans(ctx context.Context, trace string) ([]console.Span, error) {
	return traces{d.spans}.Spans(ctx, trace)
}
