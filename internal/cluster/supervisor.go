package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/process"
)

// ErrUnknown is wrapped by errors about members and links that do not exist.
var ErrUnknown = errors.New("unknown")

// Config says what is supervised, and who is told.
type Config struct {
	File     File
	Fresh    bool                                        // forget what the data folder holds
	Binary   string                                      // the antipode that services run; empty: this one
	Keys     func(dir string, regions []im.Region) error // makes certificates and token keys in a folder where they are missing
	Progress func(string)                                // told one line at a time what is going on; may be nil
	Show     func(member, line string)                   // told each line that a member writes; may be nil

	server func(MemberPlan) Server // in tests: what runs instead
}

// Supervisor runs the members of a cluster. Its methods may be called at once from anywhere.
type Supervisor struct {
	cfg      Config
	plan     *Plan
	lock     *lock
	links    links
	members  map[string]*member
	postgres map[string]*backend.Postgres
	env      []string
	password string // of PostgreSQL

	mu    sync.Mutex
	sinks []*sink

	closing context.Context // ends when Close begins: whatever is being started gives up
	cancel  context.CancelFunc
	once    sync.Once
}

// New prepares a data folder and locks it. Up starts everything; Close ends it, also after a failed Up.
func New(cfg Config) (_ *Supervisor, err error) {
	plan, err := NewPlan(cfg.File)
	if err != nil {
		return nil, err
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	if cfg.Binary == "" {
		if cfg.Binary, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	s := &Supervisor{cfg: cfg, plan: plan, members: map[string]*member{}, postgres: map[string]*backend.Postgres{}, env: environment()}
	s.closing, s.cancel = context.WithCancel(context.Background())
	if s.lock, err = openFolder(plan, cfg.Fresh); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Supervisor) prepare() error {
	launcher, err := newSink(LauncherLog, s.plan.LogFile(LauncherLog), nil)
	if err != nil {
		return err
	}
	s.sinks = append(s.sinks, launcher)
	progress := s.cfg.Progress
	s.cfg.Progress = func(line string) {
		fmt.Fprintln(launcher, time.Now().Format(time.RFC3339), line)
		progress(line)
	}
	if err := s.cfg.Keys(s.plan.KeysDir(), s.plan.Names()); err != nil {
		return err
	}
	if s.password, err = s.plan.postgresPassword(); err != nil {
		return err
	}
	if err := s.plan.writeConfigs(); err != nil {
		return err
	}
	if err := s.plan.free(); err != nil {
		return err
	}
	if s.links, err = openLinks(s.plan); err != nil {
		return err
	}
	if err := errors.Join(s.plan.record(), s.plan.writeControl()); err != nil {
		return err
	}
	for _, m := range s.plan.Members() {
		server := s.server(m)
		if s.cfg.server != nil {
			server = s.cfg.server(m)
		}
		log, err := s.sink(m.Name)
		if err != nil {
			return err
		}
		s.members[m.Name] = newMember(m, server, log, s.plan.File.StopIn, s.happened)
	}
	return nil
}

// server tells how a member is run.
func (s *Supervisor) server(m MemberPlan) Server {
	r, _ := s.plan.Region(m.Region)
	switch m.Kind {
	case backendKafka:
		return kafkaOf(s.plan, r, m)
	case backendPostgres:
		p := postgresOf(m, s.password)
		s.postgres[m.Name] = p
		return p
	case backendRedis:
		return redisOf(m)
	case backendConsul:
		return consulOf(s.plan, m)
	}
	return newService(m, s.cfg.Binary, s.env)
}

func (s *Supervisor) sink(name string) (*sink, error) {
	k, err := newSink(name, s.plan.LogFile(name), s.cfg.Show)
	if err == nil {
		s.mu.Lock()
		s.sinks = append(s.sinks, k)
		s.mu.Unlock()
	}
	return k, err
}

// happened tells what a member did by itself.
func (s *Supervisor) happened(_, text string) {
	s.cfg.Progress(text)
	s.redirect()
}

// Plan is what is supervised.
func (s *Supervisor) Plan() *Plan { return s.plan }

// Up starts everything, backends first, the regions beside each other, and returns when all of it is ready.
func (s *Supervisor) Up(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.plan.File.StartIn, fmt.Errorf("not ready after %v (start_in)", s.plan.File.StartIn))
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	telling := s.tell(ctx)
	defer telling()
	errs := make([]error, len(s.plan.Regions))
	var wg sync.WaitGroup
	for i := range s.plan.Regions {
		wg.Go(func() {
			if errs[i] = s.region(ctx, &s.plan.Regions[i]); errs[i] != nil {
				cancel() // the others need not go on
			}
		})
	}
	wg.Wait()
	return first(errs)
}

// first returns the error that is not just a consequence of another's.
func first(errs []error) error {
	var some error
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		some = errors.Join(some, err)
	}
	return some
}

// region starts a region for the first time.
func (s *Supervisor) region(ctx context.Context, r *RegionPlan) error {
	var backends, services []string
	for _, m := range r.Members {
		if m.Service() {
			services = append(services, m.Name)
		} else {
			backends = append(backends, m.Name)
		}
	}
	if err := s.start(ctx, backends); err != nil {
		return err
	}
	if err := s.migrate(ctx, r); err != nil {
		return err
	}
	return s.start(ctx, services)
}

// migrateTries is how often migrate is run until it succeeds. It may run at any time, and brokers that have only just
// begun to serve can refuse it.
const migrateTries = 3

// migrate makes topics and schemas, by the program that an operator would use.
func (s *Supervisor) migrate(ctx context.Context, r *RegionPlan) error {
	name := string(r.Name) + "/migrate"
	log, err := s.sink(name)
	if err != nil {
		return err
	}
	pause := backoff.NewExponentialBackOff()
	for try := 1; ; try++ {
		err := s.migrateOnce(ctx, name, r.Config, log)
		if err == nil || try == migrateTries || ctx.Err() != nil {
			return err
		}
		s.cfg.Progress(fmt.Sprintf("%v; trying again", err))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause.NextBackOff()):
		}
	}
}

func (s *Supervisor) migrateOnce(ctx context.Context, name, file string, log *sink) error {
	proc, err := process.Start(process.Spec{
		Name: name, Path: s.cfg.Binary, Args: []string{"migrate", "--config", file}, Env: s.env, Output: log,
	})
	if err != nil {
		return err
	}
	select {
	case <-proc.Done():
		if err := proc.Err(); err != nil {
			return fmt.Errorf("%s: %s (%w)", name, log.reason(), err)
		}
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", name, context.Cause(ctx)), proc.Kill())
	}
}

// databases makes the databases of a server that started, unless it has them: its folder may be new.
func (s *Supervisor) databases(ctx context.Context, m MemberPlan) error {
	server, ok := s.postgres[m.Name]
	if !ok || s.cfg.server != nil {
		return nil
	}
	r, _ := s.plan.Region(m.Region)
	for _, d := range r.Database {
		if d.Server != m.Part {
			continue
		}
		if err := server.CreateDatabase(ctx, d.Name); err != nil {
			return err
		}
	}
	return nil
}

// start starts members, each kind only when those that it needs are ready, and returns when all are.
func (s *Supervisor) start(ctx context.Context, names []string) error {
	for _, stage := range stages {
		var group []*member
		for _, n := range names {
			if m := s.members[n]; slices.Contains(stage, m.plan.Kind) {
				group = append(group, m)
			}
		}
		if err := each(group, func(m *member) error {
			if err := m.start(ctx); err != nil {
				return err
			}
			s.redirect()
			if err := m.waitReady(ctx); err != nil {
				return err
			}
			return s.databases(ctx, m.plan)
		}); err != nil {
			return err
		}
	}
	return nil
}

// stages are what is started together: each needs those before it.
var stages = [][]string{
	{backendKafka, backendPostgres, backendRedis, backendConsul},
	{serviceReplicator, serviceRouter, serviceIMServer},
	{serviceGateway, serviceIPConf},
}

// each does something for all members at once and joins what went wrong.
func each(members []*member, do func(*member) error) error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = do(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tell says every few seconds what is waited for, until the function that it returns is called.
func (s *Supervisor) tell(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if waiting := s.waiting(); waiting != "" {
				s.cfg.Progress("waiting for " + waiting)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// waiting names what has begun to start and is not ready, with the reason of the first.
func (s *Supervisor) waiting() string {
	var names []string
	why := ""
	for _, st := range s.Status() {
		if !st.Ready && (st.State == StateStarting || st.State == StateRestarting) {
			names = append(names, st.Name)
			if why == "" && st.Why != "" {
				why = fmt.Sprintf(" (%s: %s)", st.Name, st.Why)
			}
		}
	}
	if len(names) > 6 {
		names = append(names[:6], fmt.Sprintf("%d more", len(names)-6))
	}
	if names == nil {
		return ""
	}
	return strings.Join(names, ", ") + why
}

// free tells which address is taken already.
func (p *Plan) free() error {
	all := p.Addresses()
	delete(all, p.File.Listen) // bound already, by whoever serves the pages
	delete(all, p.File.Traces)
	for _, addr := range slices.Sorted(maps.Keys(all)) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("%s cannot use its address %s: %w: stop what uses it, or give the region another host or port_offset", all[addr], addr, err)
		}
		l.Close()
	}
	return nil
}

// Status tells of every member, in the order of the plan.
func (s *Supervisor) Status() []Status {
	var all []Status
	for _, m := range s.plan.Members() {
		st, _ := s.members[m.Name].snapshot()
		all = append(all, st)
	}
	return all
}

// match returns the members that a target means.
func (s *Supervisor) match(target string) ([]*member, error) {
	names := s.plan.Match(target)
	if names == nil {
		return nil, fmt.Errorf("member %q: %w: want a member (eu/kafka), all of a kind (eu/imserver), a region (eu) or all; antipode cluster ps lists them", target, ErrUnknown)
	}
	var all []*member
	for _, n := range names {
		all = append(all, s.members[n])
	}
	return all, nil
}

// Kill ends members as kill -9 does, all at once. They stay down until they are started.
func (s *Supervisor) Kill(_ context.Context, target string) error {
	defer s.redirect()
	return s.order(target, (*member).kill)
}

// Stop asks members to stop, those first that need others. They stay down until they are started.
func (s *Supervisor) Stop(_ context.Context, target string) error {
	members, err := s.match(target)
	if err != nil {
		return err
	}
	defer s.redirect()
	return stopInTurn(members)
}

func stopInTurn(members []*member) error {
	var errs []error
	for _, stage := range slices.Backward(stages) {
		var group []*member
		for _, m := range members {
			if slices.Contains(stage, m.plan.Kind) {
				group = append(group, m)
			}
		}
		errs = append(errs, each(group, (*member).stop))
	}
	return errors.Join(errs...)
}

// Start starts members that are down, those first that others need, and returns when they are ready or ctx ends.
func (s *Supervisor) Start(ctx context.Context, target string) error {
	names := s.plan.Match(target)
	if names == nil {
		_, err := s.match(target)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	return s.start(ctx, names)
}

// Restart stops members and starts them again.
func (s *Supervisor) Restart(ctx context.Context, target string) error {
	return errors.Join(s.Stop(ctx, target), s.Start(ctx, target))
}

// Use has services run another build of antipode from their next start on, so that a cluster runs mixed versions. Backends
// among the members are passed over.
func (s *Supervisor) Use(target, binary string) error {
	members, err := s.match(target)
	if err != nil {
		return err
	}
	found := false
	for _, m := range members {
		if service, ok := m.server.(*service); ok {
			service.binary.Store(&binary)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("member %q: %w: want a service, only they run antipode", target, ErrUnknown)
	}
	return nil
}

// Pause stops members from running, as a machine that hangs: connections stay open and nobody answers.
func (s *Supervisor) Pause(_ context.Context, target string) error {
	return s.order(target, (*member).pause)
}

// Resume lets paused members run on.
func (s *Supervisor) Resume(_ context.Context, target string) error {
	return s.order(target, (*member).resume)
}

func (s *Supervisor) order(target string, do func(*member) error) error {
	members, err := s.match(target)
	if err != nil {
		return err
	}
	return each(members, do)
}

// WaitReady waits until everything that is not down by order is ready.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	var members []*member
	for _, m := range s.members {
		if st, _ := m.snapshot(); st.State != StateDown {
			members = append(members, m)
		}
	}
	return each(members, func(m *member) error {
		m.hurry()
		return m.waitReady(ctx)
	})
}

// redirect points links at replicators that run.
func (s *Supervisor) redirect() {
	for _, r := range s.plan.Regions {
		replicators := r.Of(serviceReplicator)
		target := replicators[0]
		for _, m := range replicators {
			if st, _ := s.members[m.Name].snapshot(); st.State == StateUp || st.State == StateStarting {
				target = m
				break
			}
		}
		s.links.lead(r.Name, target.RPC)
	}
}

// Cut stops a link: what is under way is lost, and nothing passes until Heal.
func (s *Supervisor) Cut(_ context.Context, from, to im.Region) error {
	return s.setCut(from, to, true)
}

// Heal lets a link carry again. Its delay stays.
func (s *Supervisor) Heal(_ context.Context, from, to im.Region) error {
	return s.setCut(from, to, false)
}

func (s *Supervisor) setCut(from, to im.Region, cut bool) error {
	l, err := s.links.find(from, to)
	if err == nil {
		l.setCut(cut)
	}
	return err
}

// Delay sets the one-way delay of a link.
func (s *Supervisor) Delay(_ context.Context, from, to im.Region, delay time.Duration) error {
	l, err := s.links.find(from, to)
	if err != nil {
		return err
	}
	return l.setDelay(delay)
}

// Clock puts the clocks of the imservers among members off by so much; 0 sets them right.
func (s *Supervisor) Clock(_ context.Context, target string, offset time.Duration) error {
	members, err := s.match(target)
	if err != nil {
		return err
	}
	found := false
	for _, m := range members {
		if m.plan.Kind != serviceIMServer {
			continue
		}
		found = true
		if err := os.WriteFile(m.plan.clockFile(), []byte(offset.String()+"\n"), 0o644); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("member %q: %w: want an imserver, only their clocks are looked at", target, ErrUnknown)
	}
	return nil
}

// Links tells of every link.
func (s *Supervisor) Links() []LinkStatus {
	var all []LinkStatus
	for _, l := range s.links {
		all = append(all, l.status())
	}
	return all
}

// Close stops everything that was started, in reverse order, and lets go of the data folder. The data stays.
func (s *Supervisor) Close() error {
	var err error
	s.once.Do(func() {
		s.cancel()
		var members []*member
		for _, m := range s.members {
			m.retire()
			members = append(members, m)
		}
		err = stopInTurn(members)
		s.links.close()
		for _, k := range s.sinks {
			k.close()
		}
		os.Remove(filepath.Join(s.plan.Data, controlFile))
		s.lock.release()
	})
	return err
}
