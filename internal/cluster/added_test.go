package cluster

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

func quietly(string) {}

// A region that was added is forgotten when it is taken out: later starts go without it. What runs, and what the file lists, is not.
func TestForget(t *testing.T) {
	cfg, _ := setup(t)
	s := up(t, cfg)
	if err := s.Add(t.Context(), Region{Name: "sa"}, quietly); err != nil {
		t.Fatal(err)
	}
	data := s.Plan().Data
	if _, running := errors.AsType[*RunningError](Forget(data, "sa")); !running {
		t.Error("a region that runs was forgotten")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Forget(data, "eu"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a region of the file was forgotten: %v", err)
	}
	if err := Forget(data, "sa"); err != nil {
		t.Fatal(err)
	}
	p, err := planWithAdded(cfg.File, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := p.Region("sa"); there || len(p.Regions) != len(cfg.File.Regions) {
		t.Errorf("the next start has %v", p.Names())
	}
	if _, err := os.Stat(filepath.Join(data, "sa")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of sa is there: %v", err)
	}
}

// A region comes to others that run: they go on as the processes that they are, orders know it, and so does a later start.
func TestAdd(t *testing.T) {
	cfg, d := setup(t)
	s := up(t, cfg)
	pids := map[string]int{}
	for _, st := range s.Status() {
		pids[st.Name] = st.PID
	}
	euConfig := s.Plan().Regions[0].Config
	eu, err := os.ReadFile(euConfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), Region{Name: "sa"}, quietly); err != nil {
		t.Fatal(err)
	}
	sa, ok := s.Plan().Region("sa")
	if !ok || sa.Host != cfg.File.Regions[0].Host || s.Plan().File.Regions[2].PortOffset != 20_000 {
		t.Fatalf("sa is at %+v", s.Plan().File.Regions)
	}
	for _, st := range s.Status() {
		if !st.Ready || pids[st.Name] != 0 && pids[st.Name] != st.PID {
			t.Errorf("%+v, its process was %d", st, pids[st.Name])
		}
	}
	begun := d.lines(t)
	if at, after := slices.Index(begun, "+sa/kafka"), slices.Index(begun, "+sa/router-1"); at < 0 || after < at {
		t.Errorf("sa did not start in its order: %v", begun)
	}
	if len(s.Links()) != 6 {
		t.Errorf("links: %+v", s.Links())
	}
	if err := errors.Join(s.Cut(t.Context(), "sa", "eu"), s.Kill(t.Context(), "sa/redis"), s.Start(t.Context(), "sa/redis")); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(euConfig); err != nil || string(now) != string(eu) {
		t.Errorf("eu was configured anew before it was told: %v", err)
	}
	if err := s.Configure(); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(euConfig); err != nil || !strings.Contains(string(now), "sa") {
		t.Errorf("the next start of eu does not know sa: %v", err)
	}
	if p, err := Recorded(cfg.File.Data); err != nil || p.Match("sa/redis") == nil {
		t.Errorf("commands do not know sa: %v", err)
	}
	if err := s.Kill(t.Context(), "sa/router-1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), Region{Name: "sa"}, quietly); err != nil {
		t.Errorf("adding it again: %v", err)
	}
	if err := s.WaitReady(t.Context()); err != nil || len(s.Status()) != len(sa.Members)*3 {
		t.Errorf("afterwards: %v", err)
	}
	if err := s.Add(t.Context(), Region{Name: "us"}, quietly); err == nil || !strings.Contains(err.Error(), "one of the cluster's already") {
		t.Errorf("adding one of the file's: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(d.lines(t), "-sa/kafka") {
		t.Error("sa did not end with the others")
	}

	for name, file := range map[string]func(*File){
		"as it was":   func(*File) {},
		"it lists sa": func(f *File) { f.Regions = append(slices.Clone(f.Regions), s.Plan().File.Regions[2]) },
	} {
		later := cfg
		file(&later.File)
		s, err := New(later)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := s.Plan().Names(); !slices.Equal(got, []im.Region{"eu", "us", "sa"}) {
			t.Errorf("%s: a later start has %v", name, got)
		}
		if now, _ := s.Plan().Region("sa"); now.Of(backendKafka)[0].Listen != sa.Of(backendKafka)[0].Listen {
			t.Errorf("%s: sa is elsewhere", name)
		}
		s.Close()
	}
	cfg.Fresh = true
	if s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Plan().Names(); len(got) != 2 {
		t.Errorf("a fresh start has %v", got)
	}
}

// Of a region that cannot be started nothing is left, and the others do not notice.
func TestAddFails(t *testing.T) {
	cfg, d := setup(t)
	real := cfg.server
	cfg.server = func(m MemberPlan) Server {
		s := real(m).(*script)
		if m.Name == "sa/redis" {
			s.text = "exit 1"
		}
		return s
	}
	s := up(t, cfg)
	l, err := net.Listen("tcp", address(Region{Host: cfg.File.Regions[0].Host, PortOffset: 20_000}, portLinks))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), Region{Name: "sa"}, quietly); err == nil || !strings.Contains(err.Error(), "link eu-sa cannot use its address") {
		t.Errorf("with a taken address: %v", err)
	}
	l.Close()
	for range 2 { // the second time as the first: nothing is in the way
		if err := s.Add(t.Context(), Region{Name: "sa"}, quietly); err == nil || !strings.Contains(err.Error(), "sa/redis") {
			t.Errorf("without Redis: %v", err)
		}
	}
	if err := s.Add(t.Context(), Region{Name: "Mars"}, quietly); err == nil || !strings.Contains(err.Error(), "regions[2].name") {
		t.Errorf("by a name that is none: %v", err)
	}
	if err := s.Add(t.Context(), Region{Name: "sa", Host: "10.0.0.1"}, quietly); err == nil || !strings.Contains(err.Error(), "not a loopback address") {
		t.Errorf("at an address of others: %v", err)
	}
	if got := s.Plan().Names(); len(got) != 2 || len(s.Links()) != 2 {
		t.Errorf("left is %v, %v", got, s.Links())
	}
	if _, err := os.Stat(filepath.Join(cfg.File.Data, "sa")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
	if p, err := Recorded(cfg.File.Data); err != nil || len(p.Regions) != 2 {
		t.Errorf("commands know it: %v", err)
	}
	lines := d.lines(t)
	count := func(of string) (n int) {
		for _, l := range lines {
			if l == of {
				n++
			}
		}
		return n
	}
	if count("+sa/kafka") == 0 || count("+sa/kafka") != count("-sa/kafka") {
		t.Errorf("a part of sa runs on: %v", lines)
	}
	for _, st := range s.Status() {
		if !st.Ready {
			t.Errorf("got %+v", st)
		}
	}
}

// Who ends the cluster while a region is added waits until that was given up.
func TestCloseWhileAdding(t *testing.T) {
	cfg, d := setup(t)
	real := cfg.server
	cfg.server = func(m MemberPlan) Server {
		s := real(m).(*script)
		if m.Name == "sa/redis" {
			s.text = "echo +slow >> " + d.path + "; " + forever
		}
		return s
	}
	s := up(t, cfg)
	added := make(chan error, 1)
	go func() { added <- s.Add(context.Background(), Region{Name: "sa"}, quietly) }()
	for deadline := time.Now().Add(time.Minute); !slices.Contains(d.lines(t), "+slow"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("sa does not start")
		}
	}
	if err := s.Add(t.Context(), Region{Name: "ap"}, quietly); !errors.Is(err, ErrAdding) {
		t.Errorf("another meanwhile: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-added; err == nil {
		t.Error("it was added to what ended")
	}
	if err := s.Add(t.Context(), Region{Name: "sa"}, quietly); err == nil {
		t.Error("it was added to what had ended")
	}
	if _, held := Locked(cfg.File.Data); held {
		t.Error("the data folder is still locked")
	}
}

func TestPlaceOfAdded(t *testing.T) {
	at := func(places ...Region) string {
		f := DefaultFile()
		f.Regions = places
		for i := range f.Regions {
			f.Regions[i].Name = im.Region("r" + string(rune('a'+i)))
		}
		f, err := f.with(Region{Name: "sa"})
		if err != nil {
			return err.Error()
		}
		r := f.Regions[len(f.Regions)-1]
		return address(r, 0)
	}
	for _, c := range []struct {
		want   string
		places []Region
	}{
		{"127.0.0.13:0", []Region{{Host: "127.0.0.12"}, {Host: "127.0.0.11"}}},
		{"127.0.0.12:0", []Region{{Host: "127.0.0.11"}}},
		{"127.0.1.0:0", []Region{{Host: "127.0.0.255"}, {Host: "127.0.0.3"}}},
		{"127.0.0.1:20000", []Region{{Host: "127.0.0.1"}, {Host: "127.0.0.1", PortOffset: 10_000}}},
		{"region sa: regions[2].port_offset 60000 is not between 0 and 50000", []Region{{Host: "127.0.0.1"}, {Host: "127.0.0.1", PortOffset: 50_000}}},
	} {
		if got := at(c.places...); got != c.want {
			t.Errorf("beside %v: %s, want %s", c.places, got, c.want)
		}
	}
}
