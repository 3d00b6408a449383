package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/internal/process"
)

// Server is how one process is run. Backends and services are alike in it. Errors begin with the name.
type Server interface {
	Name() string
	// Prepare makes what the process needs before it starts: folders, files. It may run any number of times.
	Prepare(ctx context.Context) error
	// Spec says what to run.
	Spec() process.Spec
	// Ready asks once whether it does what it is for: nil, or why not.
	Ready(ctx context.Context) error
}

// State is what a member is doing.
type State string

// The states. A member that ended by itself is either restarting or, if it is a backend, exited.
const (
	StateDown       State = "down"       // never started, or ended by order
	StateStarting   State = "starting"   // it runs and has not been ready since
	StateUp         State = "up"         // it was ready once since it started
	StatePaused     State = "paused"     // by order
	StateStopping   State = "stopping"   // by order
	StateRestarting State = "restarting" // it ended by itself and is started again in a moment
	StateExited     State = "exited"     // it ended by itself and waits for an order
)

// Status is what is known of a member.
type Status struct {
	Name     string    `json:"name"`
	Region   string    `json:"region"`
	Kind     string    `json:"kind"`
	State    State     `json:"state"`
	Ready    bool      `json:"ready"`
	Why      string    `json:"why,omitempty"` // why it is not ready, or ended
	PID      int       `json:"pid,omitempty"`
	Address  string    `json:"address,omitempty"`
	Admin    string    `json:"admin,omitempty"`
	Since    time.Time `json:"since"`    // of the state up, or else of the last start or end
	Restarts int       `json:"restarts"` // by itself, since the launcher began
}

const (
	probeTimeout    = 2 * time.Second
	probeWhileStart = 100 * time.Millisecond
	probeWhileUp    = 2 * time.Second
	stopWhileStart  = 3 * time.Second // for what has never been ready: some servers do not listen to signals before
	restartFirst    = 200 * time.Millisecond
	restartMost     = 5 * time.Second
	restartForget   = time.Minute // what ran so long begins with the shortest pause again
)

// member is one process of the cluster.
type member struct {
	plan   MemberPlan
	server Server
	log    *sink
	stopIn time.Duration
	quorum *quorum                 // that it is in; nil: none
	event  func(name, text string) // told what happens to it that nobody ordered

	wiped atomic.Bool // it kept something, which was removed since it ran last

	orders  sync.Mutex // one order at a time
	retired bool       // never started again; guarded by orders

	mu       sync.Mutex
	status   Status
	proc     *process.Process   // the last one; nil before the first start
	cancel   context.CancelFunc // ends the watch over the process, not the process
	over     chan struct{}      // closed when that watch has ended
	exits    int                // by itself since the last order, but for want of a backend
	changed  chan struct{}      // closed at the next change
	proberun chan struct{}      // asks for a probe now
}

func newMember(plan MemberPlan, server Server, log *sink, stopIn time.Duration, event func(name, text string)) *member {
	return &member{
		plan: plan, server: server, log: log, stopIn: stopIn, event: event,
		status: Status{
			Name: plan.Name, Region: string(plan.Region), Kind: plan.Kind, State: StateDown,
			Address: plan.Address(), Admin: plan.Admin, Since: time.Now(), Why: "not started",
		},
		changed: make(chan struct{}), proberun: make(chan struct{}, 1),
	}
}

// snapshot returns the status, and a channel that closes when it may have changed.
func (m *member) snapshot() (Status, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status, m.changed
}

func (m *member) update(f func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.status
	f(&m.status)
	if m.status != before {
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

func (m *member) enter(s State, why string) {
	m.update(func(st *Status) {
		if st.State != s {
			st.Since = time.Now()
		}
		st.State, st.Why, st.Ready = s, why, false
		if s == StateDown || s == StateExited || s == StateRestarting {
			st.PID = 0
		}
	})
}

// start launches the process and watches over it from now on. It returns when the process runs, not when it is ready.
// One that runs is left alone; one that is paused is an error.
func (m *member) start(ctx context.Context) error {
	m.orders.Lock()
	defer m.orders.Unlock()
	if m.retired {
		return fmt.Errorf("%s: the cluster is stopping", m.plan.Name)
	}
	switch s, _ := m.snapshot(); s.State {
	case StateUp, StateStarting:
		return nil
	case StatePaused:
		return fmt.Errorf("%s is paused: resume it", m.plan.Name)
	}
	m.unwatch()
	watching, cancel := context.WithCancel(context.Background())
	over, started := make(chan struct{}), make(chan error, 1)
	m.mu.Lock()
	m.cancel, m.over, m.exits = cancel, over, 0
	m.mu.Unlock()
	m.enter(StateStarting, "starting")
	go func() {
		defer close(over)
		m.watch(watching, started)
	}()
	select {
	case err := <-started:
		return err
	case <-ctx.Done():
		m.unwatch()
		err := m.finish(true, 0)
		m.enter(StateDown, "its start was given up")
		return errors.Join(fmt.Errorf("%s: its start was given up: %w", m.plan.Name, context.Cause(ctx)), err)
	}
}

// watch launches the process, follows how it does, and launches it again when it ends by itself, until ctx ends. The
// result of the first launch goes to started. A process that runs when ctx ends is left to who ended it.
func (m *member) watch(ctx context.Context, started chan<- error) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = restartFirst, restartMost
	for first := true; ; first = false {
		began := time.Now()
		proc, err := m.launch(ctx)
		if first {
			started <- err
		}
		if err == nil {
			if m.follow(ctx, proc); ctx.Err() != nil {
				return
			}
			err = m.ended(proc)
		}
		if ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		if code := exitCode(proc); code == exitConfig {
			m.exits = maxExits
		} else if code != exitBackend {
			m.exits++
		}
		m.mu.Unlock()
		if !m.plan.Service() || first && proc == nil {
			if !first || proc != nil { // else whoever ordered the start is told
				m.event(m.plan.Name, err.Error())
			}
			m.enter(StateExited, err.Error())
			return
		}
		if time.Since(began) > restartForget {
			retry.Reset()
		}
		pause := retry.NextBackOff()
		m.event(m.plan.Name, fmt.Sprintf("%v; starting it again in %v", err, pause.Round(10*time.Millisecond)))
		m.enter(StateRestarting, err.Error())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		m.update(func(s *Status) { s.Restarts++ })
		m.enter(StateStarting, err.Error())
	}
}

// launch prepares and starts the process.
func (m *member) launch(ctx context.Context) (*process.Process, error) {
	if err := m.server.Prepare(ctx); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	spec := m.server.Spec()
	spec.Output = m.log
	proc, err := process.Start(spec)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.proc = proc
	m.mu.Unlock()
	m.update(func(s *Status) { s.PID, s.Since = proc.PID(), time.Now() })
	return proc, nil
}

// ended tells how a process ended that nobody ended.
func (m *member) ended(proc *process.Process) error {
	how := "exit status 0"
	if err := proc.Err(); err != nil {
		how = err.Error()
	}
	if exitCode(proc) < 0 { // by a signal: what it said last is not why
		return fmt.Errorf("%s ended, not by order (%s)", m.plan.Name, how)
	}
	return fmt.Errorf("%s ended by itself (%s): %s", m.plan.Name, how, m.log.reason())
}

// follow probes the process until it ends or ctx does.
func (m *member) follow(ctx context.Context, proc *process.Process) {
	pause := probeWhileStart
	for {
		if s, _ := m.snapshot(); s.State == StateStarting || s.State == StateUp {
			err := m.probe(ctx)
			m.update(func(s *Status) {
				if s.State != StateStarting && s.State != StateUp {
					return
				}
				s.Ready, s.Why = err == nil, ""
				if waits := m.log.waitsFor(); err != nil && s.State == StateStarting && m.plan.Service() && waits != "" {
					s.Why = waits
				} else if err != nil {
					s.Why = strings.TrimPrefix(err.Error(), s.Name+": ")
				} else if s.State == StateStarting {
					s.State, s.Since = StateUp, time.Now()
				}
			})
			pause = probeWhileStart
			if err == nil {
				pause = probeWhileUp
			}
		}
		select {
		case <-proc.Done():
			return
		case <-ctx.Done():
			return
		case <-m.proberun:
		case <-time.After(pause):
		}
	}
}

func (m *member) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return m.server.Ready(ctx)
}

// unwatch ends the watch over the process and returns when nobody watches. The process goes on.
func (m *member) unwatch() {
	m.mu.Lock()
	cancel, over := m.cancel, m.over
	m.mu.Unlock()
	if cancel != nil {
		cancel()
		<-over
	}
}

// retire keeps the member from being started again. A start under way is waited for.
func (m *member) retire() {
	m.orders.Lock()
	defer m.orders.Unlock()
	m.retired = true
}

// kill ends the process as kill -9 does and waits until it is gone. It stays down until it is started.
func (m *member) kill() error { return m.end(true, "killed by order") }

// stop asks the process to stop, and kills it if it does not in time, which is an error. It stays down until it is
// started.
func (m *member) stop() error { return m.end(false, "stopped by order") }

func (m *member) end(hard bool, why string) error {
	m.orders.Lock()
	defer m.orders.Unlock()
	m.unwatch()
	s, _ := m.snapshot()
	if s.State == StateDown {
		return nil
	}
	m.enter(StateStopping, why)
	patience := m.stopIn
	if s.State == StateStarting {
		patience = min(patience, stopWhileStart)
	}
	err := m.finish(hard, patience)
	m.enter(StateDown, why)
	if patience < m.stopIn {
		return nil
	}
	return err
}

// finish ends the process that nobody watches any more.
func (m *member) finish(hard bool, patience time.Duration) error {
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if proc == nil {
		return nil
	}
	select {
	case <-proc.Done():
		return nil
	default:
	}
	if hard {
		return proc.Kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if m.quorum == nil {
		return proc.Stop(ctx)
	}
	return m.quorum.stop(ctx, proc)
}

// pause stops the process from running, as a machine that hangs.
func (m *member) pause() error {
	m.orders.Lock()
	defer m.orders.Unlock()
	s, _ := m.snapshot()
	if s.State == StatePaused {
		return nil
	}
	if s.State != StateUp && s.State != StateStarting {
		return fmt.Errorf("%s is %s: only what runs can be paused", m.plan.Name, s.State)
	}
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if proc == nil {
		return fmt.Errorf("%s has only begun to start: try again", m.plan.Name)
	}
	if err := proc.Pause(); err != nil {
		return err
	}
	m.enter(StatePaused, "paused by order")
	return nil
}

// resume lets a paused process run on.
func (m *member) resume() error {
	m.orders.Lock()
	defer m.orders.Unlock()
	if s, _ := m.snapshot(); s.State != StatePaused {
		return nil
	}
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if err := proc.Resume(); err != nil {
		return err
	}
	m.enter(StateStarting, "resumed")
	m.hurry()
	return nil
}

// hurry asks for a probe now.
func (m *member) hurry() {
	select {
	case m.proberun <- struct{}{}:
	default:
	}
}

// The exit codes by which a service of Antipode tells what is wrong.
const (
	exitConfig  = 2 // its configuration cannot be: starting it again does not help
	exitBackend = 3 // a backend is missing: it may come yet
)

func exitCode(proc *process.Process) int {
	if proc != nil {
		if e, ok := errors.AsType[*exec.ExitError](proc.Err()); ok {
			return e.ExitCode()
		}
	}
	return 0
}

// maxExits is how often a member may end by itself before who waits for it gives up.
const maxExits = 4

// waitReady waits until the member is ready. It gives up when ctx ends, when the member ended for good, or ended by itself
// too often.
func (m *member) waitReady(ctx context.Context) error {
	for {
		m.mu.Lock()
		s, changed, exits := m.status, m.changed, m.exits
		m.mu.Unlock()
		switch {
		case s.Ready:
			return nil
		case s.State == StateDown || s.State == StateExited || s.State == StatePaused:
			return fmt.Errorf("%s is %s: %s", m.plan.Name, s.State, s.Why)
		case exits >= maxExits:
			return errors.New(s.Why)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			s, _ := m.snapshot()
			return fmt.Errorf("%s is not ready: %s: %w", m.plan.Name, s.Why, context.Cause(ctx))
		}
	}
}
