package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/process"
)

// script is a Server that is a line of shell. It is ready while the file ready exists in its folder.
type script struct {
	name, dir, text string
	prepare         func(context.Context) error
}

func (s *script) Name() string { return s.name }

func (s *script) Prepare(ctx context.Context) error {
	if s.prepare != nil {
		return s.prepare(ctx)
	}
	return nil
}

func (s *script) Spec() process.Spec {
	return process.Spec{Name: s.name, Path: "/bin/sh", Args: []string{"-c", s.text}, Dir: s.dir}
}

func (s *script) Ready(context.Context) error {
	if _, err := os.Stat(filepath.Join(s.dir, "ready")); err != nil {
		return errors.New("there is no file ready")
	}
	return nil
}

func (s *script) beReady(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "ready"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// events notes what members did by themselves.
type events struct {
	mu    sync.Mutex
	lines []string
}

func (e *events) note(_, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, text)
}

func (e *events) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.lines, "\n")
}

// run returns a member over a script. As a service it has a configuration file, and is started again when it ends.
func run(t *testing.T, service bool, text string) (*member, *script, *events) {
	t.Helper()
	s := &script{name: "eu/part", dir: t.TempDir(), text: text}
	log, err := newSink("eu/part", filepath.Join(s.dir, "log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	plan := MemberPlan{Name: "eu/part", Region: "eu", Part: "part", Kind: "part"}
	if service {
		plan.Config = "a file"
	}
	happened := new(events)
	m := newMember(plan, s, log, 5*time.Second, happened.note)
	t.Cleanup(func() {
		m.retire()
		if err := m.kill(); err != nil {
			t.Error(err)
		}
		log.close()
	})
	return m, s, happened
}

// until waits for a state of the member.
func until(t *testing.T, m *member, what string, ok func(Status) bool) Status {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s, changed := m.snapshot()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not in time: %s; it is %+v", what, s)
		}
	}
}

func is(want State) func(Status) bool { return func(s Status) bool { return s.State == want } }

const forever = "while :; do sleep 0.05; done"

func TestStartIsReadyOnceItSays(t *testing.T) {
	m, s, _ := run(t, true, forever)
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, m, "the reason is told", func(s Status) bool { return s.Why == "there is no file ready" })
	s.beReady(t)
	if err := m.waitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, _ := m.snapshot(); st.State != StateUp || st.PID == 0 || st.Why != "" {
		t.Fatalf("got %+v", st)
	}
}

func TestServiceThatEndsIsStartedAgain(t *testing.T) {
	m, s, happened := run(t, true, `echo '{"level":"ERROR","msg":"I crash","error":"on purpose"}'; exit 1`)
	s.beReady(t)
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, m, "two restarts", func(s Status) bool { return s.Restarts >= 2 })
	if got := happened.all(); !strings.Contains(got, "eu/part ended by itself (exit status 1): I crash: on purpose; starting it again in") {
		t.Errorf("told: %s", got)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if st, _ := m.snapshot(); st.State != StateDown {
		t.Errorf("got %+v", st)
	}
}

// A configuration that cannot be is not tried again and again by who waits; a missing backend is.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		code   string
		giveUp bool
	}{{"2", true}, {"3", false}} {
		t.Run(c.code, func(t *testing.T) {
			m, _, _ := run(t, true, "exit "+c.code)
			if err := m.start(t.Context()); err != nil {
				t.Fatal(err)
			}
			until(t, m, "restarts", func(s Status) bool { return s.Restarts >= 1 })
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			err := m.waitReady(ctx)
			if err == nil {
				t.Fatal("it became ready")
			}
			if gaveUp := !errors.Is(err, context.DeadlineExceeded); gaveUp != c.giveUp {
				t.Errorf("gave up: %v (%v)", gaveUp, err)
			}
		})
	}
}

func TestBackendThatEndsStaysDown(t *testing.T) {
	m, _, happened := run(t, false, "echo FATAL: disk full; exit 1")
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := until(t, m, "it ended", is(StateExited))
	if s.Restarts != 0 || s.PID != 0 || !strings.Contains(s.Why, "FATAL: disk full") {
		t.Errorf("got %+v", s)
	}
	if err := m.waitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("who waits for it hears: %v", err)
	}
	if !strings.Contains(happened.all(), "disk full") {
		t.Errorf("told: %s", happened.all())
	}
}

func TestKilledStaysDownUntilStarted(t *testing.T) {
	m, s, happened := run(t, true, forever)
	s.beReady(t)
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := until(t, m, "up", is(StateUp)).PID
	if err := m.kill(); err != nil {
		t.Fatal(err)
	}
	if st, _ := m.snapshot(); st.State != StateDown || st.Why != "killed by order" || st.PID != 0 {
		t.Fatalf("got %+v", st)
	}
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := until(t, m, "up again", is(StateUp)); again.PID == first || again.Restarts != 0 {
		t.Errorf("got %+v", again)
	}
	if got := happened.all(); got != "" {
		t.Errorf("what was ordered was told as an accident: %s", got)
	}
}

func TestPauseAndResume(t *testing.T) {
	m, s, _ := run(t, true, forever)
	if err := m.pause(); err == nil {
		t.Error("what is down was paused")
	}
	s.beReady(t)
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := until(t, m, "up", is(StateUp)).PID
	if err := m.pause(); err != nil {
		t.Fatal(err)
	}
	if st, _ := m.snapshot(); st.State != StatePaused || st.Ready || st.PID != pid {
		t.Fatalf("got %+v", st)
	}
	if err := m.start(t.Context()); err == nil || !strings.Contains(err.Error(), "resume it") {
		t.Errorf("starting what is paused: %v", err)
	}
	if err := m.resume(); err != nil {
		t.Fatal(err)
	}
	if st := until(t, m, "up again", is(StateUp)); st.PID != pid {
		t.Errorf("got %+v", st)
	}
	if err := m.pause(); err != nil {
		t.Fatal(err)
	}
	if err := m.stop(); err != nil { // a paused process can be stopped
		t.Fatal(err)
	}
}

// A service that does not stop when asked is killed, and that is told.
func TestStopThatTakesTooLong(t *testing.T) {
	m, _, _ := run(t, true, "trap '' TERM; touch ready; "+forever)
	m.stopIn = 200 * time.Millisecond
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, m, "up", is(StateUp))
	if err := m.stop(); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("got %v", err)
	}
	if st, _ := m.snapshot(); st.State != StateDown {
		t.Errorf("got %+v", st)
	}
}

// A start can be given up at any moment, also while the data folder is being made, and leaves nothing running.
func TestStartGivenUp(t *testing.T) {
	m, s, _ := run(t, true, forever)
	began := make(chan struct{})
	s.prepare = func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if err := m.start(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if st, _ := m.snapshot(); st.State != StateDown || st.PID != 0 {
		t.Errorf("got %+v", st)
	}
}

func TestRetiredIsNotStarted(t *testing.T) {
	m, _, _ := run(t, true, forever)
	m.retire()
	if err := m.start(t.Context()); err == nil {
		t.Fatal("it was started")
	}
}
