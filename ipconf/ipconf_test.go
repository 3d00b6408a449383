package ipconf

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a discovery, its gateways and peers, by script.
type site struct {
	mu      sync.Mutex
	of      map[string][]im.Instance // "gateway/eu"
	silent  bool                     // discovery errors
	dead    map[string]bool          // gateways and ipconfs that do not answer
	loads   map[string]im.Load
	states  map[im.Region]im.RegionState
	changed chan struct{}
}

func newSite() *site {
	return &site{
		of: map[string][]im.Instance{}, dead: map[string]bool{}, loads: map[string]im.Load{},
		states: map[im.Region]im.RegionState{}, changed: make(chan struct{}),
	}
}

func (s *site) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *site) add(r im.Region, id string, l im.Load) {
	l.Gateway = im.Gateway{ID: id, Epoch: 1}
	s.of["gateway/"+string(r)] = append(s.of["gateway/"+string(r)],
		im.Instance{Service: "gateway", ID: id, Region: r, URL: "http://" + id + ".example:80", Epoch: 1, Addr: id})
	s.loads[id] = l
}

var errSilent = errors.New("no answer")

func (s *site) Instances(_ context.Context, service string, r im.Region) ([]im.Instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		return nil, errSilent
	}
	return slices.Clone(s.of[service+"/"+string(r)]), nil
}

func (s *site) Watch(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		list, err := s.Instances(ctx, service, r)
		if err != nil {
			return err
		}
		fn(list)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *site) Load(_ context.Context, g im.Instance) (im.Load, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead[g.ID] {
		return im.Load{}, errSilent
	}
	return s.loads[g.ID], nil
}

func (s *site) Loads(_ context.Context, i im.Instance) ([]im.Load, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead[i.ID] {
		return nil, 0, errSilent
	}
	var loads []im.Load
	for _, g := range s.of["gateway/"+string(i.Region)] {
		if !s.dead[g.ID] {
			loads = append(loads, s.loads[g.ID])
		}
	}
	return loads, 10 * time.Millisecond, nil
}

// say sets a region's state, as of now.
func (s *site) say(r im.Region, state im.State) {
	s.states[r] = im.RegionState{Region: r, State: state, Stamp: im.StampAt(time.Now())}
}

func (s *site) State(r im.Region) im.RegionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[r]
}

// quick is the configuration of an ipconf of eu with everything a hundred times faster, but for taking gateways for dead: a
// busy machine may take its time to ask them.
func quick() Config {
	return Config{
		Region: "eu", Regions: []im.Region{"eu", "us"}, Listen: "127.0.0.1:0", TTL: 42 * time.Second,
		PollInterval: 10 * time.Millisecond, PollTimeout: time.Second, DeadAfter: 1500 * time.Millisecond, ConfirmAfter: 30 * time.Millisecond,
		ViewInterval: 5 * time.Millisecond, DrainOver: 50 * time.Millisecond, ReturnOver: 20 * time.Millisecond,
	}
}

func start(t *testing.T, s *site) *IPConf {
	t.Helper()
	return run(t, s, quick(), nil)
}

func run(t *testing.T, s *site, cfg Config, geo Geo) *IPConf {
	t.Helper()
	s.mu.Lock()
	s.of["ipconf/us"] = []im.Instance{{Service: "ipconf", ID: "ipconf-us", Region: "us", URL: "http://ipconf-us.example"}}
	s.mu.Unlock()
	p, err := New(cfg, Deps{Discovery: s, Gateways: s, Peers: s, States: s, Geo: geo})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return p
}

func get(t *testing.T, p *IPConf, query string) (int, wire.Endpoints, http.Header) {
	t.Helper()
	resp, err := http.Get("http://" + p.Addr() + "/v1/endpoints" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e wire.Endpoints
	if resp.StatusCode == http.StatusOK {
		if e, err = wire.DecodeEndpoints(b); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, e, resp.Header
}

func idsOf(e wire.Endpoints) string {
	var ids []string
	for _, g := range e.Gateways {
		ids = append(ids, g.ID)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// eventually polls until the gateways handed out are those wanted.
func eventually(t *testing.T, p *IPConf, query, want string) wire.Endpoints {
	t.Helper()
	got := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		_, e, _ := get(t, p, query)
		if got = idsOf(e); got == want {
			return e
		}
	}
	t.Fatalf("handed out %q, want %q", got, want)
	return wire.Endpoints{}
}

func TestAnswer(t *testing.T) {
	s := newSite()
	s.add("eu", "e1", im.Load{Conns: 90_000, Capacity: 100_000})
	s.add("eu", "e2", im.Load{Conns: 10_000, Capacity: 100_000})
	s.add("us", "u1", im.Load{Conns: 10_000, Capacity: 100_000})
	const stream = "https://e1.example:7443/v1/ws"
	s.of["gateway/eu"][0].WebTransport = stream // the others do not announce it
	p := start(t, s)
	eventually(t, p, "?rtt=us:1,eu:300", "e1 e2 u1")
	for range 1000 { // until the loads are known
		if loads, _, err := p.Loads(t.Context()); err != nil || len(loads) == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	_, e, head := get(t, p, "?uid=ann&region=eu&last=e1")
	if first := e.Gateways[0]; first.ID != "e1" || first.Region != "eu" || first.URL != "ws://e1.example:80/v1/ws" || first.PullURL != "http://e1.example:80" {
		t.Errorf("the last gateway comes first, with its URLs; got %+v", first)
	}
	for _, g := range e.Gateways {
		if (g.WebTransport == stream) != (g.ID == "e1") || g.ID != "e1" && g.WebTransport != "" {
			t.Errorf("%s is offered at %q", g.ID, g.WebTransport)
		}
	}
	if e.TTLMs != 42_000 || e.Region != "eu" || e.Policy != wire.DefaultPolicy() {
		t.Errorf("ttl, region, policy: %+v", e)
	}
	if skew := time.Since(time.UnixMilli(e.ServerTimeMs)); skew < 0 || skew > time.Minute {
		t.Errorf("server time is %v off", skew)
	}
	if head.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("CORS: %v", head)
	}
	if _, e, _ := get(t, p, "?rtt=us:1,eu:300"); e.Gateways[0].ID != "u1" {
		t.Errorf("a client near us is sent to %+v", e.Gateways[0])
	}
	if status, e, _ := get(t, p, "?rtt=:::&region=%00&last="+strings.Repeat("x", 2000)); status != http.StatusOK || len(e.Gateways) != 3 {
		t.Errorf("bad hints are passed over; got %d %+v", status, e)
	}
}

func TestGatewaysLeave(t *testing.T) {
	s := newSite()
	s.add("eu", "e1", im.Load{Capacity: 100_000})
	s.add("eu", "e2", im.Load{Capacity: 100_000})
	s.add("us", "u1", im.Load{Capacity: 100_000})
	s.add("us", "u2", im.Load{Capacity: 100_000})
	p := start(t, s)
	eventually(t, p, "", "e1 e2 u1 u2")

	// A killed gateway leaves though the catalogue still names it; one of another region too.
	s.change(func() { s.dead["e1"], s.dead["u2"] = true, true })
	eventually(t, p, "", "e2 u1")
	s.change(func() { s.dead["e1"], s.dead["u2"] = false, false })
	eventually(t, p, "", "e1 e2 u1 u2")

	// A draining one takes no newcomers, by its own word or the catalogue's.
	s.change(func() {
		l := s.loads["e1"]
		l.Draining = true
		s.loads["e1"] = l
		list := slices.Clone(s.of["gateway/us"])
		list[0].Draining = true
		s.of["gateway/us"] = list
	})
	eventually(t, p, "", "e2 u2")

	// A region that operators drain or declare dead neither.
	s.change(func() { s.say("us", im.StateDraining) })
	eventually(t, p, "", "e2")
	s.change(func() { s.say("us", im.StateActive) })
	eventually(t, p, "", "e2 u2")

	// A whole region that is killed leaves after the second look.
	s.change(func() {
		s.dead["u1"], s.dead["u2"], s.dead["ipconf-us"] = true, true, true
		s.of["gateway/us"] = nil
	})
	eventually(t, p, "", "e2")
}

// A dead region's ipconfs, which its catalogue goes on to name, have no part of the rate.
func TestSilentPeersHaveNoPartOfTheRate(t *testing.T) {
	s := two(2)
	p := start(t, s)
	s.change(func() {
		s.of["ipconf/eu"] = []im.Instance{{Service: "ipconf", ID: "ipconf-eu", Region: "eu"}}
		s.of["ipconf/us"] = append(s.of["ipconf/us"],
			im.Instance{Service: "ipconf", ID: "ipconf-us-2", Region: "us"}, im.Instance{Service: "ipconf", ID: "ipconf-us-3", Region: "us"})
	})
	ipconfs := func(want float64) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); p.current.Load().ipconfs != want; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%v ipconfs share the rate, want %v", p.current.Load().ipconfs, want)
			}
		}
	}
	ipconfs(4)
	s.change(func() { s.dead["ipconf-us-2"] = true })
	ipconfs(3)
	s.change(func() {
		s.dead["ipconf-us"], s.dead["ipconf-us-2"], s.dead["ipconf-us-3"] = true, true, true
		s.of["ipconf/us"] = nil // its discovery died too
	})
	ipconfs(1)
	s.change(func() { s.dead = map[string]bool{} })
	ipconfs(4)
}

func TestSilenceRemovesNothing(t *testing.T) {
	s := newSite()
	s.add("eu", "e1", im.Load{Capacity: 100_000})
	s.add("us", "u1", im.Load{Capacity: 100_000})
	cfg := quick()
	cfg.ConfirmAfter = time.Hour // no second look says that it was right
	p := run(t, s, cfg, nil)
	eventually(t, p, "", "e1 u1")
	good := slices.Clone(s.of["gateway/us"])
	held := func(want bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			if _, held, _ := p.fleet.age("us", time.Now()); held == want {
				return
			}
		}
		t.Fatalf("that a reading is held back never becomes %v", want)
	}
	calm := func(why string) {
		t.Helper()
		for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if _, e, _ := get(t, p, ""); idsOf(e) != "e1 u1" {
				t.Fatalf("%s: handed out %q", why, idsOf(e))
			}
		}
	}
	s.change(func() { s.silent = true })
	calm("discovery is silent")
	s.change(func() { s.silent = false; s.of["gateway/us"] = nil })
	held(true)
	calm("one empty reading")
	s.change(func() { s.of["gateway/us"] = good })
	held(false)
	s.change(func() { s.dead["ipconf-us"] = true })
	calm("the other region's ipconf is silent")
}

func TestNobody(t *testing.T) {
	p := start(t, newSite())
	resp, err := http.Get("http://" + p.Addr() + "/v1/endpoints")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var e struct{ Code string }
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != 503 || e.Code != "unready" {
		t.Fatalf("%v %d %+v", err, resp.StatusCode, e)
	}
}

func TestKilled(t *testing.T) {
	s := newSite()
	p, err := New(Config{Region: "eu", Listen: "127.0.0.1:0"}, Deps{Discovery: s, Gateways: s, Peers: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	cancel(im.ErrKilled)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
}

func TestExplain(t *testing.T) {
	s := newSite()
	s.add("eu", "e1", im.Load{Capacity: 100_000})
	s.add("us", "u1", im.Load{Capacity: 100_000})
	s.say("us", im.StateDraining)
	p := start(t, s)
	var w *httptest.ResponseRecorder
	var e Explanation
	const why = "region us is draining" // as soon as it knows both gateways and the region's share has gone down
	told := func() bool { return len(e.Ranked) == 1 && len(e.LeftOut) == 1 && e.LeftOut[0].Why == why }
	for end := time.Now().Add(30 * time.Second); !told() && time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		w, e = httptest.NewRecorder(), Explanation{}
		p.Explain().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?region=us", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
	}
	if !told() || e.Ranked[0].Gateway != "e1" || e.Ranked[0].Why == "" || e.Ranked[0].Weight <= 0 || len(e.Regions) != 2 || len(e.Catalogs) != 2 {
		t.Fatalf("%s", w.Body)
	}
}
