package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// patience bounds every wait.
const patience = 30 * time.Second

// agent plays the part of Consul's HTTP API that the adapter uses, and every trick of it.
type agent struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	changed  chan struct{}
	index    uint64
	services map[string]*api.AgentServiceRegistration // by id: what the agent knows, and the catalogue shows
	renewed  map[string]int                           // by check
	status   int                                      // answered to everything, with text, unless 0
	text     string
	filtered bool
	version  string
	asked    []string // "service index=…", in order
}

func newAgent(t *testing.T) *agent {
	a := &agent{t: t, changed: make(chan struct{}), index: 7, services: map[string]*api.AgentServiceRegistration{}, renewed: map[string]int{}}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

// do changes what the agent knows and wakes who waits for it.
func (a *agent) do(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) add(ids ...string) {
	a.do(func() {
		a.index++
		for _, id := range ids {
			i := im.Instance{Service: "imserver", ID: id, Region: "eu", Addr: "h:1"}
			r := (&Consul{cfg: Config{Prefix: "antipode", TTL: time.Second}}).registration(&i, "lease-"+id, time.Now())
			a.services[r.ID] = r
		}
	})
}

func (a *agent) remove(ids ...string) {
	a.do(func() {
		a.index++
		for _, id := range ids {
			delete(a.services, "antipode-imserver-eu-"+id)
		}
	})
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status != 0 {
		http.Error(w, a.text, a.status)
		return
	}
	reply := func(v any) {
		w.Header().Set("X-Consul-Index", strconv.FormatUint(a.index, 10))
		w.Header().Set("X-Consul-LastContact", "0")
		w.Header().Set("X-Consul-KnownLeader", "true")
		if a.filtered {
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	path := r.URL.Path
	last := path[strings.LastIndexByte(path, '/')+1:]
	switch {
	case path == "/v1/status/leader":
		reply("127.0.0.1:8300")
	case path == "/v1/agent/self":
		reply(map[string]any{"Config": map[string]any{"Datacenter": "eu", "Version": a.version}})
	case path == "/v1/agent/service/register":
		var s api.AgentServiceRegistration
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			a.t.Error(err)
		}
		a.services[s.ID] = &s
		a.index++
		close(a.changed)
		a.changed = make(chan struct{})
	case strings.HasPrefix(path, "/v1/agent/service/deregister/"):
		delete(a.services, last)
		a.index++
	case strings.HasPrefix(path, "/v1/agent/service/"):
		s := a.services[last]
		if s == nil {
			http.Error(w, "unknown service ID: "+last, http.StatusNotFound)
			return
		}
		reply(map[string]any{"ID": s.ID, "Service": s.Name, "Meta": s.Meta})
	case strings.HasPrefix(path, "/v1/agent/check/update/"):
		for _, s := range a.services {
			if s.Check.CheckID == last {
				a.renewed[last]++
				return
			}
		}
		http.Error(w, "Unknown check ID "+last, http.StatusNotFound)
	case path == "/v1/catalog/services":
		names := map[string][]string{}
		for _, s := range a.services {
			names[s.Name] = nil
		}
		reply(names)
	case strings.HasPrefix(path, "/v1/health/service/"):
		a.asked = append(a.asked, "index="+r.URL.Query().Get("index"))
		a.hold(r)
		list := []*api.ServiceEntry{}
		for _, s := range a.services {
			if s.Name == last {
				list = append(list, &api.ServiceEntry{Service: &api.AgentService{ID: s.ID, Service: s.Name, Meta: s.Meta}})
			}
		}
		reply(list)
	default:
		http.Error(w, "not played: "+path, http.StatusTeapot)
	}
}

// hold holds a blocking query as Consul does: until the index is above the one asked for. a.mu is held.
func (a *agent) hold(r *http.Request) {
	index, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	wait = min(wait, 300*time.Millisecond) // so that what only the wait ends is tested, too
	for over := time.After(wait); index > 0 && a.index <= index; {
		changed := a.changed
		a.mu.Unlock()
		stop := false
		select {
		case <-changed:
		case <-over:
			stop = true
		case <-r.Context().Done():
			stop = true
		}
		a.mu.Lock()
		if stop {
			return
		}
	}
}

func (a *agent) open(ttl time.Duration) *Consul {
	a.t.Helper()
	c, err := New(Config{Address: strings.TrimPrefix(a.server.URL, "http://"), Region: "eu", TTL: ttl}, Deps{})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(c.Close)
	return c
}

// until polls for a state.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("not in %v: %s", patience, what)
}

// watched follows the imservers, and tells them by id.
func watched(t *testing.T, c *Consul) (last func() string, times func() int) {
	var mu sync.Mutex
	var told []string
	ended := make(chan error, 1)
	ctx := t.Context()
	go func() {
		ended <- c.Watch(ctx, "imserver", "eu", func(list []im.Instance) {
			var ids []string
			for _, i := range list {
				ids = append(ids, i.ID)
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, strings.Join(ids, " "))
		})
	}()
	t.Cleanup(func() {
		select {
		case err := <-ended:
			if !errors.Is(err, ctx.Err()) {
				t.Errorf("the watch ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("the watch does not end")
		}
	})
	return func() string {
			mu.Lock()
			defer mu.Unlock()
			if len(told) == 0 {
				return "(nothing)"
			}
			return told[len(told)-1]
		}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(told)
		}
}

// TestIndexGoesBackwards: servers that were restored from a backup, or are others, count from the start. A watch that kept
// its index would not be woken for as long as they count up to it.
func TestIndexGoesBackwards(t *testing.T) {
	a := newAgent(t)
	a.add("a", "b")
	last, _ := watched(t, a.open(time.Hour))
	until(t, "a and b are told", func() bool { return last() == "a b" })
	a.do(func() { a.index = 3 })
	until(t, "the watch asks anew", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		n := len(a.asked)
		return n > 1 && (a.asked[n-1] == "index=" || a.asked[n-1] == "index=3")
	})
	a.add("c")
	until(t, "the newcomer is told", func() bool { return last() == "a b c" })
	a.remove("a")
	a.add("d")
	until(t, "and another", func() bool { return last() == "a b c d" }) // a is missing too soon after the reset to be believed
}

// TestLostMemory: a catalogue that suddenly names nobody, and then one after the other.
func TestLostMemory(t *testing.T) {
	a := newAgent(t)
	a.add("a", "b", "c")
	last, times := watched(t, a.open(2*time.Second)) // a busy machine sees them gone for as long as it takes to look again
	until(t, "all are told", func() bool { return last() == "a b c" })
	a.remove("a", "b", "c")
	a.add("b")
	a.add("a", "c")
	a.add("d")
	until(t, "all are told, and the newcomer", func() bool { return last() == "a b c d" })
	if n := times(); n != 2 {
		t.Errorf("told %d times, want 2: that nobody was there is no news", n)
	}
	a.remove("a", "b", "c", "d")
	until(t, "confirmed: nobody is there", func() bool { return last() == "" })
}

// TestSilence: errors change nothing; who is missing right after them stays for a time to live.
func TestSilence(t *testing.T) {
	a := newAgent(t)
	a.add("a", "b")
	c := a.open(400 * time.Millisecond)
	last, times := watched(t, c)
	until(t, "both are told", func() bool { return last() == "a b" })
	a.do(func() { a.status, a.text, a.index = 500, "No cluster leader", 100 })
	until(t, "the watch was refused", func() bool { return !c.troubled("eu").IsZero() })
	a.do(func() { delete(a.services, "antipode-imserver-eu-b"); a.status = 0 })
	until(t, "b is missed in the end", func() bool { return last() == "a" })
	if after := time.Since(c.troubled("eu")); after < 400*time.Millisecond {
		t.Errorf("b was missed %v after the silence; it had a time to live to come back", after)
	}
	if times() != 2 {
		t.Errorf("told %d times, want 2", times())
	}
	if _, err := c.Instances(t.Context(), "imserver", "eu"); err != nil {
		t.Error(err)
	}
	a.do(func() { a.status = 500 })
	if _, err := c.Instances(t.Context(), "imserver", "eu"); !errors.Is(err, registry.ErrSilent) {
		t.Errorf("a list from a silent registry: %v", err)
	}
}

// TestHiddenByACL: a token that may read nothing gets an empty list and code 200.
func TestHiddenByACL(t *testing.T) {
	a := newAgent(t)
	a.do(func() { a.filtered = true })
	_, err := a.open(time.Second).Instances(t.Context(), "imserver", "eu")
	if _, remedy, lasting := Explain(err); !lasting || !strings.Contains(remedy, "service:read") {
		t.Errorf("%v: %s", err, remedy)
	}
}

// TestForgotten: an agent that lost its memory is told again, and a lease that was taken over is not.
func TestForgotten(t *testing.T) {
	a := newAgent(t)
	c := a.open(60 * time.Millisecond)
	i := im.Instance{Service: "imserver", ID: "a", Region: "eu", Addr: "h:1"}
	l, err := c.Register(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	a.do(func() { clear(a.services) })
	listed := func() bool {
		list, err := c.Instances(t.Context(), "imserver", "eu")
		return err == nil && len(list) == 1 && equal(list[0], i)
	}
	until(t, "it is registered again", listed)
	a.do(func() { a.status, a.text = 500, "down" })
	until(t, "a renewal failed", func() bool { return !c.troubled("eu").IsZero() })
	a.do(func() { clear(a.services); a.status = 0 })
	until(t, "it is registered again after a silence", listed)

	successor, err := a.open(time.Hour).Register(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the former is lost", func() bool { return errors.Is(l.Update(i), registry.ErrLeaseLost) })
	if err := errors.Join(l.Close(), successor.Close()); err != nil {
		t.Error(err)
	}
}

// TestCloseOfSilentRegistry returns in time, and says that it could not tell.
func TestCloseOfSilentRegistry(t *testing.T) {
	a := newAgent(t)
	l, err := a.open(time.Second).Register(t.Context(), im.Instance{Service: "router", ID: "a", Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	a.do(func() { a.status, a.text = 500, "No cluster leader" })
	begun := time.Now()
	if err := l.Close(); !errors.Is(err, registry.ErrSilent) || !strings.Contains(err.Error(), a.server.Listener.Addr().String()) {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(begun); took > 2*callTimeout {
		t.Errorf("took %v", took)
	}
}

func TestRegistersOwnRegionOnly(t *testing.T) {
	c := newAgent(t).open(time.Second)
	if _, err := c.Register(t.Context(), im.Instance{Service: "router", ID: "a", Region: "us"}); err == nil {
		t.Error("an instance of another region was registered")
	}
}

func TestExplain(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := refused.Addr().String()
	refused.Close()
	for _, c := range []struct {
		name    string
		address string
		region  im.Region
		status  int
		text    string
		problem string
		lasting bool
	}{
		{"refused", closed, "eu", 0, "", "connection refused", false},
		{"no host", "consul.invalid:8500", "eu", 0, "", "consul.invalid", false},
		{"another datacenter", "", "us", 0, "", `the agent is of datacenter "eu", and the region is "us"`, true},
		{"no leader", "", "eu", 500, "No cluster leader", "No cluster leader", false},
		{"unknown token", "", "eu", 403, "rpc error making call: ACL not found", "the token is not known", true},
		{"no Consul at all", "", "eu", 400, "<html>\nbad", "it is not understood: <html> bad", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAgent(t)
			a.status, a.text = c.status, c.text
			address := c.address
			if address == "" {
				address = a.server.Listener.Addr().String()
			}
			consul, err := New(Config{Address: address, Region: c.region}, Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer consul.Close()
			err = consul.Check(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			problem, remedy, lasting := Explain(err)
			if !strings.Contains(problem, c.problem) || lasting != c.lasting || remedy == "" || strings.Contains(problem+remedy, "\n") {
				t.Errorf("%v\nis told as %q, %q, lasting %t", err, problem, remedy, lasting)
			}
			if !strings.Contains(err.Error(), address) || errors.Is(err, registry.ErrSilent) == lasting {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestEntriesSettleTwoNodes(t *testing.T) {
	c := &Consul{cfg: Config{Prefix: "antipode", TTL: time.Second}}
	entry := func(service, id, lease string, since int64) *api.ServiceEntry {
		i := im.Instance{Service: service, ID: id, Region: "eu", Addr: lease}
		r := c.registration(&i, lease, time.UnixMilli(since))
		return &api.ServiceEntry{Service: &api.AgentService{Service: r.Name, Meta: r.Meta}}
	}
	list := []*api.ServiceEntry{
		entry("imserver", "b", "b1", 5), entry("imserver", "a", "old", 10), entry("imserver", "a", "new", 20),
		{Service: &api.AgentService{Service: "antipode-imserver", Meta: nil}},
		{Service: &api.AgentService{Service: "web"}},
	}
	var got []string
	for _, e := range c.entries("eu", list) {
		got = append(got, fmt.Sprint(e.ID, " ", e.Addr))
	}
	if want := []string{"a new", "b b1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if all := c.entries("us", list); len(all) != 0 {
		t.Errorf("of another region: %v", all)
	}
}

// TestLatestRegistrationStays: of two processes of one name the one that registered last goes on, whatever the order in which
// an agent hears of them, and whether or not they have the same agent.
func TestLatestRegistrationStays(t *testing.T) {
	i := im.Instance{Service: "imserver", ID: "a", Region: "eu", Addr: "h:1"}
	for _, c := range []struct {
		name string
		key  string // of the other's registration on the agent
		at   time.Duration
		lost bool
	}{
		{"the agent hears of a former one late", "antipode-imserver-eu-a", -time.Minute, false},
		{"a later one on the same agent", "antipode-imserver-eu-a", time.Minute, true},
		{"a former one on another node", "elsewhere", -time.Minute, false},
		{"a later one on another node", "elsewhere", time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAgent(t)
			l, err := a.open(60*time.Millisecond).Register(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			mine := ""
			a.do(func() {
				mine = a.services["antipode-imserver-eu-a"].Check.CheckID
				a.services[c.key] = (&Consul{cfg: Config{Prefix: "antipode", TTL: time.Second}}).registration(&i, "other", time.Now().Add(c.at))
			})
			if c.lost {
				select {
				case <-l.Lost():
				case <-time.After(patience):
					t.Fatal("it does not find that another one took its place")
				}
				return
			}
			beats := func() (n int) {
				a.do(func() { n = a.renewed[mine] })
				return n
			}
			began := beats()
			until(t, "it is renewed", func() bool { return beats() > began+2*lookEvery })
			select {
			case <-l.Lost():
				t.Error("it gave way to one that was registered before")
			default:
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Agents that are too old are refused at the start; one whose version is not read is not.
func TestOldAgentsAreRefused(t *testing.T) {
	for version, old := range map[string]bool{
		"0.9.3": true, "1.9.17": true, "1.9.0+ent": true, "1.10.0": false, "1.21.4": false, "2.0.0": false, "": false, "dev": false,
	} {
		a := newAgent(t)
		a.version = version
		c, err := New(Config{Address: strings.TrimPrefix(a.server.URL, "http://"), Region: "eu"}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Check(t.Context())
		c.Close()
		if !old {
			if err != nil {
				t.Errorf("%q: %v", version, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%q: it is taken", version)
			continue
		}
		problem, remedy, final := Explain(err)
		if !final || !strings.Contains(problem, version) || !strings.Contains(problem, "1.10 or later") || !strings.Contains(remedy, "upgrade") {
			t.Errorf("%q: %q, %q, waiting does not help: %v", version, problem, remedy, final)
		}
	}
}

// A cluster whose prefix goes on where another's ends is another cluster: its imservers are no service of the first.
func TestNestedPrefixes(t *testing.T) {
	a := newAgent(t)
	c := a.open(time.Minute)
	nested, err := New(Config{Address: c.cfg.Address, Region: "eu", Prefix: "antipode-b", TTL: time.Minute}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nested.Close)
	for _, in := range []*Consul{c, nested} {
		lease, err := in.Register(t.Context(), im.Instance{Service: "imserver", ID: in.cfg.Prefix, Region: "eu", Addr: "h:1", Serves: []string{"im"}})
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close()
	}
	for _, in := range []*Consul{c, nested} {
		all, err := in.Instances(t.Context(), "", "eu")
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 || all[0].Service != "imserver" || all[0].ID != in.cfg.Prefix {
			t.Errorf("cluster %s has the instances %+v, want its own imserver", in.cfg.Prefix, all)
		}
	}
}

// A token that is taken back while a process runs makes it unready, and is told in the log: it is not listed any more.
// Silence does not, and both end by themselves.
func TestRefusedAtRunTime(t *testing.T) {
	a := newAgent(t)
	var log lines
	c, err := New(Config{Address: strings.TrimPrefix(a.server.URL, "http://"), Region: "eu", TTL: 150 * time.Millisecond}, Deps{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	lease, err := c.Register(t.Context(), im.Instance{Service: "imserver", ID: "a", Region: "eu", Addr: "h:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	answer := func(status int, text string) { a.do(func() { a.status, a.text = status, text }) }
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not in time: %s", what)
			}
		}
	}
	renewals := func() (n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, times := range a.renewed {
			n += times
		}
		return n
	}
	if err := errors.Join(c.Standing(t.Context()), c.Ping(t.Context())); err != nil {
		t.Fatal(err)
	}
	answer(http.StatusInternalServerError, "rpc error: no known servers")
	eventually("degraded by silence", func() bool { return c.standing.of(false) != nil })
	if err := c.Standing(t.Context()); err != nil {
		t.Errorf("silence makes it unready: %v", err)
	}
	answer(http.StatusForbidden, "ACL not found")
	eventually("unready by a refusal", func() bool { return c.Standing(t.Context()) != nil })
	if problem, _, _ := Explain(c.Standing(t.Context())); problem != "the token is not known" {
		t.Errorf("it says %q", problem)
	}
	if text := log.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "discovery.token") {
		t.Errorf("the log does not tell of the refusal and what to do:\n%s", text)
	}
	answer(0, "")
	before := renewals()
	eventually("renewed", func() bool { return renewals() > before })
	eventually("ready", func() bool { return c.Standing(t.Context()) == nil && c.Ping(t.Context()) == nil })
}

// What goes on failing is told now and then, and what fails in another way at once.
func TestComplainsAgain(t *testing.T) {
	s := standing{failing: map[string]*failure{}}
	at := time.Unix(0, 0)
	refused := api.StatusError{Code: http.StatusForbidden, Body: "ACL not found"}
	for i, step := range []struct {
		after time.Duration
		err   error
		tell  bool
	}{
		{0, errNoLeader, true},
		{time.Second, errNoLeader, false},
		{time.Second, refused, true},
		{time.Second, refused, false},
		{toldAgain, refused, true},
		{time.Second, refused, false},
	} {
		at = at.Add(step.after)
		if tell := s.fails("the watch of imserver", step.err, at); tell != step.tell {
			t.Errorf("failure %d: told %v, want %v", i+1, tell, step.tell)
		}
	}
}

// lines is a log in memory.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
