package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// diary notes in which order members start and stop.
type diary struct{ path string }

func (d diary) lines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(d.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// host returns a loopback address of the test's own, so that tests beside each other do not meet.
func host(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port // nobody else has it now
	return fmt.Sprintf("127.22.%d.%d", 1+port/250, 1+port%250)
}

// setup describes two regions whose members are scripts that write into a diary.
func setup(t *testing.T) (Config, diary) {
	t.Helper()
	dir := t.TempDir()
	d := diary{filepath.Join(dir, "diary")}
	binary := filepath.Join(dir, "antipode") // migrates
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho migrated >> "+d.path+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := DefaultFile()
	h := host(t)
	f.Data, f.Traces, f.Listen = filepath.Join(dir, "data"), "", net.JoinHostPort(h, "7399")
	f.StartIn, f.StopIn = 30*time.Second, 5*time.Second
	f.Regions = []Region{{Name: "eu", Host: h}, {Name: "us", Host: h, PortOffset: 10_000}}
	return Config{
		File: f, Binary: binary,
		Keys: func(string, []im.Region) error { return nil },
		server: func(m MemberPlan) Server {
			own := filepath.Join(dir, string(m.Region), m.Part)
			if err := os.MkdirAll(own, 0o755); err != nil {
				t.Fatal(err)
			}
			return &script{name: m.Name, dir: own, text: fmt.Sprintf(
				"trap 'echo -%[1]s >> %[2]s; rm ready; exit 0' TERM; echo +%[1]s >> %[2]s; touch ready; %[3]s", m.Name, d.path, forever)}
		},
	}, d
}

func up(t *testing.T, cfg Config) *Supervisor {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Backends come before migrate, that before services, and those that need others last; the way down is the reverse.
func TestOrder(t *testing.T) {
	cfg, d := setup(t)
	s := up(t, cfg)
	begun := d.lines(t)
	at := func(lines []string, entry string) int {
		i := slices.Index(lines, entry)
		if i < 0 {
			t.Fatalf("%s is missing in %v", entry, lines)
		}
		return i
	}
	for _, pair := range [][2]string{
		{"+eu/kafka", "+eu/imserver-1"},
		{"+eu/consul", "+eu/replicator-1"},
		{"+eu/kafka", "migrated"},
		{"migrated", "+eu/router-1"},
		{"+eu/imserver-1", "+eu/gateway-2"},
		{"+us/router-1", "+us/ipconf-1"},
	} {
		if at(begun, pair[0]) > at(begun, pair[1]) {
			t.Errorf("%s came after %s: %v", pair[0], pair[1], begun)
		}
	}
	for _, st := range s.Status() {
		if st.State != StateUp || !st.Ready {
			t.Errorf("got %+v", st)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	all := d.lines(t)
	for _, pair := range [][2]string{
		{"-eu/gateway-1", "-eu/imserver-1"},
		{"-us/ipconf-1", "-us/router-1"},
		{"-eu/imserver-1", "-eu/kafka"},
		{"-us/replicator-1", "-us/consul"},
	} {
		if at(all, pair[0]) > at(all, pair[1]) {
			t.Errorf("%s came after %s: %v", pair[0], pair[1], all)
		}
	}
	if want := 2 * len(s.Plan().Members()); len(all) != want+2 { // and two migrations
		t.Errorf("%d entries, want %d: %v", len(all), want+2, all)
	}
	if _, held := Locked(s.Plan().Data); held {
		t.Error("the data folder is still locked")
	}
}

func TestOrdersByName(t *testing.T) {
	cfg, _ := setup(t)
	s := up(t, cfg)
	states := func(prefix string) string {
		var all []string
		for _, st := range s.Status() {
			if strings.HasPrefix(st.Name, prefix) {
				all = append(all, string(st.State))
			}
		}
		return strings.Join(slices.Compact(all), " ")
	}
	ctx := t.Context()
	for _, c := range []struct {
		do           func(context.Context, string) error
		target, want string
	}{
		{s.Kill, "eu/kafka", "down"},
		{s.Start, "eu/kafka", "up"},
		{s.Stop, "eu/gateway", "down"},
		{s.Restart, "eu/gateway", "up"},
		{s.Kill, "us", "down"},
		{s.Start, "us", "up"},
		{s.Pause, "us", "paused"},
		{s.Resume, "us", "starting up"},
	} {
		if err := c.do(ctx, c.target); err != nil {
			t.Fatalf("%s: %v", c.target, err)
		}
		got := states(c.target)
		if c.want == "starting up" {
			if err := s.WaitReady(ctx); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.target, got, c.want)
		}
	}
	if err := s.Kill(ctx, "eu/nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if err := s.Start(ctx, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if err := s.Cut(ctx, "eu", "ap"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if err := s.Delay(ctx, "eu", "us", -time.Second); err == nil {
		t.Error("a link took a negative delay")
	}
	if err := s.Cut(ctx, "eu", "us"); err != nil {
		t.Fatal(err)
	}
	if l := s.Links()[0]; l.From != "eu" || !l.Cut {
		t.Errorf("got %+v", l)
	}
}

// What views are kept in loses everything by order, and is migrated where it starts again, once. Nothing else may be wiped.
func TestWipe(t *testing.T) {
	cfg, d := setup(t)
	s := up(t, cfg)
	migrations := func() (n int) {
		for _, line := range d.lines(t) {
			if line == "migrated" {
				n++
			}
		}
		return n
	}
	begun := migrations()
	var kept string
	for _, m := range s.Plan().Members() {
		if m.Name == "eu/postgres" {
			kept = filepath.Join(m.Dir, "rows")
		}
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, []byte("all that was said"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"eu/kafka", "eu", "eu/imserver"} {
		if err := s.Wipe(t.Context(), target); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if err := s.Wipe(t.Context(), "eu/postgres"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what it kept is there still: %v", err)
	}
	for _, st := range s.Status() {
		if down := st.State == StateDown; down != (st.Name == "eu/postgres") {
			t.Errorf("%s is %s", st.Name, st.State)
		}
	}
	for range 2 {
		if err := s.Restart(t.Context(), "eu/postgres"); err != nil {
			t.Fatal(err)
		}
	}
	if n := migrations(); n != begun+1 {
		t.Errorf("migrated %d times after it was wiped, want once", n-begun)
	}
}

// A start that is interrupted at any moment, here while one member never becomes ready, leaves nothing.
func TestInterruptedStart(t *testing.T) {
	cfg, d := setup(t)
	real := cfg.server
	cfg.server = func(m MemberPlan) Server {
		s := real(m).(*script)
		if m.Name == "us/redis" {
			s.text = forever
		}
		return s
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for !slices.Contains(d.lines(t), "+eu/gateway-1") {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if err := s.Up(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), "eu"); err == nil {
		t.Error("what is closed was started")
	}
	for _, st := range s.Status() {
		if st.State != StateDown || st.PID != 0 {
			t.Errorf("got %+v", st)
		}
	}
}

// Who waits in vain is told for what.
func TestStartTooLate(t *testing.T) {
	cfg, _ := setup(t)
	real := cfg.server
	cfg.server = func(m MemberPlan) Server {
		s := real(m).(*script)
		if m.Name == "us/redis" {
			s.text = forever
		}
		return s
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() { // the moment when nothing else is waited for
		for waits := true; waits; {
			waits = false
			for _, st := range s.Status() {
				switch {
				case st.Name == "us/redis":
					waits = waits || st.Why != "there is no file ready"
				case st.Region == "eu" || slices.Contains(stages[0], st.Kind):
					waits = waits || !st.Ready
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel(errors.New("too late"))
	}()
	if err := s.Up(ctx); err == nil || err.Error() != "us/redis is not ready: there is no file ready: too late" {
		t.Errorf("got %v", err)
	}
}

func TestDataFolder(t *testing.T) {
	cfg, _ := setup(t)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(cfg)
	if running, ok := errors.AsType[*RunningError](err); !ok || running.PID != os.Getpid() || running.URL != "http://"+cfg.File.Listen {
		t.Errorf("a second one: %v", err)
	}
	fresh := cfg
	fresh.Fresh = true
	if _, err := New(fresh); err == nil {
		t.Error("the folder of a running cluster was emptied")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cfg.File.Data, "eu", "something")
	if err := os.WriteFile(kept, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.File.Kafka.Partitions = 8
	if _, err := New(other); err == nil || !strings.Contains(err.Error(), "--fresh") {
		t.Errorf("other partitions on the same data: %v", err)
	}
	other.Fresh = true
	s, err = New(other)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("fresh kept %s", kept)
	}
	strange := cfg
	strange.Fresh, strange.File.Data = true, t.TempDir()
	if err := os.WriteFile(filepath.Join(strange.File.Data, "thesis"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := New(strange); err == nil || !strings.Contains(err.Error(), "not of antipode cluster") {
		t.Errorf("a folder of somebody else: %v", err)
	}
	if _, err := os.Stat(filepath.Join(strange.File.Data, "thesis")); err != nil {
		t.Error("it was emptied")
	}
}

func TestTakenAddress(t *testing.T) {
	cfg, _ := setup(t)
	p, err := NewPlan(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	addr := p.Regions[1].Of(backendRedis)[0].Listen
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "us/redis cannot use its address "+addr) {
		t.Errorf("got %v", err)
	}
	if _, held := Locked(cfg.File.Data); held {
		t.Error("the data folder is still locked")
	}
}

// Links follow the replicator that runs.
func TestLinksFollowReplicators(t *testing.T) {
	cfg, _ := setup(t)
	cfg.File.Services.Replicator = 2
	cfg.File.LinkDelay = 0
	var mu sync.Mutex
	reached := ""
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	eu, _ := s.Plan().Region("eu")
	for _, m := range eu.Of(serviceReplicator) {
		l, err := net.Listen("tcp", m.RPC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				reached = m.Part
				mu.Unlock()
				c.Close()
			}
		}()
	}
	if err := s.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Plan().Links, func(l LinkPlan) bool { return l.From == "eu" })
	dial := func() string {
		c, err := net.Dial("tcp", s.Plan().Links[i].Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, _ = c.Read(make([]byte, 1)) // until it is closed
		mu.Lock()
		defer mu.Unlock()
		return reached
	}
	if got := dial(); got != "replicator-1" {
		t.Errorf("the link leads to %s", got)
	}
	if err := s.Kill(t.Context(), "eu/replicator-1"); err != nil {
		t.Fatal(err)
	}
	if got := dial(); got != "replicator-2" {
		t.Errorf("the link leads to %s", got)
	}
}

// Services run another build from their next start on; backends run none.
func TestUse(t *testing.T) {
	cfg, _ := setup(t)
	plan, err := NewPlan(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{}
	s.standing.Store(&standing{plan: plan, members: map[string]*member{}})
	for _, m := range plan.Members() {
		var server Server = &script{name: m.Name}
		if m.Service() {
			server = newService(m, "new", nil)
		}
		s.now().members[m.Name] = &member{plan: m, server: server}
	}
	if err := s.Use("eu", "old"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"eu/router-1": "old", "eu/gateway-2": "old", "us/router-1": "new"} {
		if got := s.now().members[name].server.Spec().Path; got != want {
			t.Errorf("%s runs %s, want %s", name, got, want)
		}
	}
	if err := s.Use("eu/kafka", "old"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a backend: %v", err)
	}
	if err := s.Use("mars", "old"); !errors.Is(err, ErrUnknown) {
		t.Errorf("nobody: %v", err)
	}
}
