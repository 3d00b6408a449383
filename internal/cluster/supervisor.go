package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
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

	server      func(MemberPlan) Server // in tests: what runs instead
	quorumGrace time.Duration           // in tests: another than quorumGrace
}

// Supervisor runs the members of a cluster. Its methods may be called at once from anywhere.
type Supervisor struct {
	cfg      Config
	lock     *lock
	standing atomic.Pointer[standing]
	env      []string
	password string // of PostgreSQL

	growing sync.Mutex // held while a region is added, or everything ends

	mu    sync.Mutex
	sinks []*sink

	closing context.Context // ends when Close begins: whatever is being started gives up
	cancel  context.CancelFunc
	once    sync.Once
}

// standing is a plan, and who carries it out. It is replaced when a region is added, never changed.
type standing struct {
	plan    *Plan
	members map[string]*member
	links   links
}

// of lists members by name.
func (s *standing) of(names []string) []*member {
	all := make([]*member, len(names))
	for i, n := range names {
		all[i] = s.members[n]
	}
	return all
}

func (s *Supervisor) now() *standing { return s.standing.Load() }

// New prepares a data folder and locks it. Up starts everything; Close ends it, also after a failed Up.
func New(cfg Config) (_ *Supervisor, err error) {
	plan, err := planWithAdded(cfg.File, cfg.Fresh)
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
	s := &Supervisor{cfg: cfg, env: environment(runtime.NumCPU(), len(plan.Regions))}
	s.standing.Store(&standing{plan: plan})
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
	plan := s.now().plan
	launcher, err := newSink(LauncherLog, plan.LogFile(LauncherLog), nil)
	if err != nil {
		return err
	}
	s.sinks = append(s.sinks, launcher)
	progress := s.cfg.Progress
	s.cfg.Progress = func(line string) {
		fmt.Fprintln(launcher, time.Now().Format(time.RFC3339), line)
		progress(line)
	}
	if err := s.cfg.Keys(plan.KeysDir(), plan.Names()); err != nil {
		return err
	}
	if s.password, err = plan.postgresPassword(); err != nil {
		return err
	}
	if err := plan.writeConfigs(plan.Data); err != nil {
		return err
	}
	if err := plan.free(&Plan{}); err != nil {
		return err
	}
	return s.supervise(plan, func() error { return errors.Join(plan.record(), plan.writeControl()) })
}

// supervise takes on what a plan has beside the present one, once keep has remembered it. Nothing of it is started.
func (s *Supervisor) supervise(plan *Plan, keep func() error) error {
	next := &standing{plan: plan, members: maps.Clone(s.now().members), links: slices.Clone(s.now().links)}
	if next.members == nil {
		next.members = map[string]*member{}
	}
	missing := slices.DeleteFunc(slices.Clone(plan.Links), func(l LinkPlan) bool {
		_, err := next.links.find(l.From, l.To)
		return err == nil
	})
	opened, err := openLinks(missing, plan.File.LinkDelay)
	if err != nil {
		return err
	}
	next.links = append(next.links, opened...)
	for _, m := range plan.Members() {
		if next.members[m.Name] != nil {
			continue
		}
		log, err := s.sink(m.Name)
		if err != nil {
			opened.close()
			return err
		}
		next.members[m.Name] = newMember(m, s.server(plan, m), log, plan.File.StopIn, s.happened)
	}
	formQuorums(next.members, cmp.Or(s.cfg.quorumGrace, quorumGrace))
	if err := keep(); err != nil {
		opened.close()
		return err
	}
	s.standing.Store(next)
	return nil
}

// server tells how a member is run.
func (s *Supervisor) server(p *Plan, m MemberPlan) Server {
	if s.cfg.server != nil {
		return s.cfg.server(m)
	}
	r, _ := p.Region(m.Region)
	switch m.Kind {
	case backendKafka:
		return kafkaOf(p, r, m)
	case backendPostgres:
		return postgresOf(m, s.password)
	case backendRedis:
		return redisOf(m)
	case backendConsul:
		return consulOf(p, m)
	}
	return newService(m, s.cfg.Binary, s.env)
}

func (s *Supervisor) sink(name string) (*sink, error) {
	k, err := newSink(name, s.Plan().LogFile(name), s.cfg.Show)
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

// Plan is what is supervised: another one once a region was added.
func (s *Supervisor) Plan() *Plan { return s.now().plan }

// Up starts everything, backends first, the regions beside each other, and returns when all of it is ready.
func (s *Supervisor) Up(ctx context.Context) error {
	return s.begin(ctx, s.Plan().Regions, s.cfg.Progress)
}

// begin starts regions for the first time.
func (s *Supervisor) begin(ctx context.Context, regions []RegionPlan, progress func(string)) error {
	in := s.Plan().File.StartIn
	ctx, cancel := context.WithTimeoutCause(ctx, in, fmt.Errorf("not ready after %v (start_in)", in))
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	telling := s.tell(ctx, progress)
	defer telling()
	errs := make([]error, len(regions))
	var wg sync.WaitGroup
	for i := range regions {
		wg.Go(func() {
			if errs[i] = s.region(ctx, &regions[i]); errs[i] != nil {
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

// start starts members, each kind only when those that it needs are ready, and returns when all are.
func (s *Supervisor) start(ctx context.Context, names []string) error {
	for _, stage := range stages {
		var group []*member
		for _, m := range s.now().of(names) {
			if slices.Contains(stage, m.plan.Kind) {
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
			if err := s.databases(ctx, m.plan); err != nil {
				return err
			}
			if !m.wiped.Load() {
				return nil
			}
			r, _ := s.Plan().Region(m.plan.Region)
			if err := s.migrate(ctx, r); err != nil { // it has no schema
				return err
			}
			m.wiped.Store(false)
			return nil
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
func (s *Supervisor) tell(ctx context.Context, progress func(string)) (stop func()) {
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
				progress("waiting for " + waiting)
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

// free tells which address is taken already, beside those of a plan that is carried out.
func (p *Plan) free(present *Plan) error {
	all := p.Addresses()
	for addr := range present.Addresses() {
		delete(all, addr)
	}
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
	now := s.now()
	var all []Status
	for _, m := range now.plan.Members() {
		st, _ := now.members[m.Name].snapshot()
		all = append(all, st)
	}
	return all
}

// match returns the members that a target means.
func (s *Supervisor) match(target string) ([]*member, error) {
	now := s.now()
	names := now.plan.Match(target)
	if names == nil {
		return nil, fmt.Errorf("part %q: %w: want a part (eu/kafka), all of a kind (eu/imserver), a region (eu) or all; antipode cluster ps lists them", target, ErrUnknown)
	}
	return now.of(names), nil
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
	names := s.Plan().Match(target)
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

// Wipe ends what views are kept in, PostgreSQL or Redis, as kill -9 does, and removes all that it kept. When it is started again it is
// empty, and views are derived anew from the logs.
func (s *Supervisor) Wipe(_ context.Context, target string) error {
	members, err := s.match(target)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.plan.Kind != backendPostgres && m.plan.Kind != backendRedis {
			return fmt.Errorf("part %q: %w: want a PostgreSQL or a Redis, which keep what is derived from logs", target, ErrUnknown)
		}
	}
	return each(members, func(m *member) error {
		if err := m.kill(); err != nil {
			return err
		}
		m.wiped.Store(true)
		return os.RemoveAll(m.plan.Dir)
	})
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
		return fmt.Errorf("part %q: %w: want a service, only they run antipode", target, ErrUnknown)
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
	for _, m := range s.now().members {
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
	now := s.now()
	for _, r := range now.plan.Regions {
		replicators := r.Of(serviceReplicator)
		target := replicators[0]
		for _, m := range replicators {
			if st, _ := now.members[m.Name].snapshot(); st.State == StateUp || st.State == StateStarting {
				target = m
				break
			}
		}
		now.links.lead(r.Name, target.RPC)
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
	l, err := s.now().links.find(from, to)
	if err == nil {
		l.setCut(cut)
	}
	return err
}

// Delay sets the one-way delay of a link.
func (s *Supervisor) Delay(_ context.Context, from, to im.Region, delay time.Duration) error {
	l, err := s.now().links.find(from, to)
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
		return fmt.Errorf("part %q: %w: want an imserver, only their clocks are looked at", target, ErrUnknown)
	}
	return nil
}

// Links tells of every link.
func (s *Supervisor) Links() []LinkStatus {
	var all []LinkStatus
	for _, l := range s.now().links {
		all = append(all, l.status())
	}
	return all
}

// Close stops everything that was started, in reverse order, and lets go of the data folder. The data stays.
func (s *Supervisor) Close() error {
	var err error
	s.once.Do(func() {
		s.cancel()
		s.growing.Lock()
		defer s.growing.Unlock()
		now := s.now()
		var members []*member
		for _, m := range now.members {
			m.retire()
			members = append(members, m)
		}
		err = stopInTurn(members)
		now.links.close()
		for _, k := range s.sinks {
			k.close()
		}
		os.Remove(filepath.Join(now.plan.Data, controlFile))
		s.lock.release()
	})
	return err
}
