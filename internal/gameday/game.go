package gameday

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/demo"
)

// Links cuts, heals and delays links.
type Links interface {
	Cut(ctx context.Context, from, to im.Region) error
	Heal(ctx context.Context, from, to im.Region) error
	Delay(ctx context.Context, from, to im.Region, d time.Duration) error
}

// Members takes orders to the parts of a cluster: kill, stop, start, restart, pause and resume.
type Members interface {
	Order(ctx context.Context, order, target string) error
	// Clock puts the clocks of imservers off.
	Clock(ctx context.Context, target string, offset time.Duration) error
	// WaitReady returns when all that should run is ready.
	WaitReady(ctx context.Context) error
}

// Watcher tells how the cluster is, as the console shows it.
type Watcher interface {
	State(ctx context.Context) (console.State, error)
}

// Cluster is where scenarios are played. It runs, whole, before and after each.
type Cluster struct {
	demo.Cluster
	Truth   demo.Truth
	Links   Links
	Members Members
	Watcher Watcher
	// StandIns are the regions that stand in between others that lose each other.
	StandIns []im.Region
}

// Config says how a scenario is played.
type Config struct {
	Long   bool
	Prefix string        // of the users, unlike that of any scenario played before on the same cluster
	Heal   time.Duration // how long the cluster may take to be ready after the last step
	Settle time.Duration // how long everything may take to arrive then
	Log    func(string)  // what is going on; may be nil
}

// Event is something that was done to the cluster or checked.
type Event struct {
	At     time.Time
	Took   time.Duration
	Text   string
	Breaks bool
	Mends  bool
	Check  bool
	Err    error
}

// Sample is how the cluster was at one moment.
type Sample struct {
	At   time.Time
	Lags map[string]float64 // link ("eu → us") → age of the oldest record that has not been carried, in seconds
}

// Result is a scenario as it went.
type Result struct {
	Scenario   *Scenario
	Began      time.Time
	Took       time.Duration
	Recovered  time.Duration // from the end of the steps until everybody reached everybody and all was ready
	Events     []Event
	Samples    []Sample
	Ops        []demo.Op
	Seen       demo.Seen
	Summary    checker.Summary
	Violations []checker.Violation
	Err        error // it could not be played to the end, or did not settle
}

// Passed tells whether everything held.
func (r *Result) Passed() bool { return r.Err == nil && len(r.Violations) == 0 }

// Line is the result in one line.
func (r *Result) Line() string {
	verdict := "held"
	switch {
	case len(r.Violations) > 0:
		verdict = "VIOLATED " + r.Violations[0].String()
	case r.Err != nil:
		verdict = "FAILED: " + r.Err.Error()
	}
	return fmt.Sprintf("%s: sent %d, acked %d, received exactly once %d; %v; recovered in %.1f s: %s",
		r.Scenario.Name, r.Summary.Sent, r.Summary.Acked, r.Summary.ReceivedOnce, r.Seen, r.Recovered.Seconds(), verdict)
}

const (
	sampleEvery  = 500 * time.Millisecond
	pryEvery     = time.Second
	pryTimeout   = 3 * time.Second
	firstMessage = 60 * time.Second // for everybody to reach everybody before the first step
	linearLimit  = 30 * time.Second
	checkEvery   = 20 * time.Millisecond

	mendAll = "heal, resume and start all"
)

// game is a scenario under way.
type game struct {
	cfg     Config
	on      Cluster
	traffic *demo.Traffic
	delays  map[Link]time.Duration // as they were
	broke   time.Time              // when the last thing broke

	mu     sync.Mutex
	result *Result
	leaks  []string
}

// Play plays a scenario and judges what was recorded. An error means that the cluster was not whole before it; everything
// after that is in the result.
func Play(ctx context.Context, cfg Config, s *Scenario, on Cluster) (*Result, error) {
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	if err := s.Fits(on); err != nil {
		return nil, err
	}
	state, err := on.Watcher.State(ctx)
	if err != nil {
		return nil, err
	}
	g := &game{cfg: cfg, on: on, delays: map[Link]time.Duration{}, result: &Result{Scenario: s, Began: time.Now()}}
	for _, l := range state.Links {
		g.delays[Link{l.From, l.To}] = time.Duration(l.DelayMS) * time.Millisecond
	}
	if err := g.begin(ctx); err != nil {
		return nil, fmt.Errorf("%s: before the first step: %w", s.Name, err)
	}
	defer g.traffic.Close()
	g.play(ctx)
	g.result.Took = time.Since(g.result.Began)
	return g.result, nil
}

// Fits tells why a scenario cannot be played on a cluster.
func (s *Scenario) Fits(on Cluster) error {
	for _, r := range s.Needs {
		if !slices.Contains(on.StandIns, r) {
			return fmt.Errorf("%s: %s does not stand in between other regions in this cluster: start it with --set replicator.stand_ins=%s --set replicator.stand_in_after=3s", s.Name, r, r)
		}
	}
	if err := fits(s.Steps, on.Regions()); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// fits checks the regions that a script names.
func fits(steps []Step, regions []im.Region) error {
	for _, s := range steps {
		named := slices.Concat(s.From, s.To)
		for _, l := range s.Links {
			named = append(named, l.From, l.To)
		}
		for _, r := range named {
			if r != "" && !slices.Contains(regions, r) {
				return fmt.Errorf("line %d: %q: no region %q in this cluster, it has %v", s.Line, s.Text, r, regions)
			}
		}
		if err := fits(s.Steps, regions); err != nil {
			return err
		}
	}
	return nil
}

func (g *game) begin(ctx context.Context) error {
	u := g.result.Scenario.Users
	var err error
	g.traffic, err = demo.StartTraffic(ctx, demo.TrafficConfig{
		Name: g.cfg.Prefix, Pairs: u.Pairs, Group: u.Group, Every: u.Every, Ack: u.Ack, Log: g.cfg.Log,
	}, g.on.Cluster)
	if err != nil {
		return err
	}
	err = g.await(ctx, firstMessage, func() (bool, string) { return g.traffic.Flows(g.result.Began, nil, nil) })
	if err != nil {
		g.traffic.Close()
	}
	return err
}

// play takes the steps, mends everything, and judges.
func (g *game) play(ctx context.Context) {
	watching, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() { g.sample(watching) })
	watchers.Go(func() { g.pry(watching) })
	g.broke = time.Now()
	err := g.steps(ctx, g.result.Scenario.Steps)
	ended := time.Now()
	err = errors.Join(err, g.mend(ctx))
	if err == nil {
		err = g.await(ctx, g.cfg.Heal, func() (bool, string) { return g.traffic.Flows(ended, nil, nil) })
	}
	g.result.Recovered = time.Since(ended)
	h, settleErr := g.traffic.Settle(ctx, g.cfg.Settle, g.on.Truth)
	stop()
	watchers.Wait()
	g.result.Err = errors.Join(err, settleErr)
	g.result.Ops, g.result.Seen, g.result.Summary = g.traffic.Ops(), g.traffic.Seen(g.result.Began), checker.Summarize(h)
	g.result.Violations = slices.Concat(checker.Check(h), g.judge(h))
}

// judge adds what the checker does not look at.
func (g *game) judge(h *checker.History) []checker.Violation {
	seqs := map[im.ID]map[im.Origin]uint64{}
	for _, t := range h.Timelines {
		for _, r := range t.Records {
			of := seqs[r.ID]
			if of == nil {
				of = map[im.Origin]uint64{}
				seqs[r.ID] = of
			}
			if seq, held := of[r.Place.Origin]; !held || r.Place.Seq < seq {
				of[r.Place.Origin] = r.Place.Seq
			}
		}
	}
	var all []checker.Violation
	for _, detail := range linearizable(g.result.Ops, seqs, linearLimit) {
		all = append(all, checker.Violation{Invariant: "I2", Detail: detail})
	}
	for _, detail := range prematurely(g.result.Ops, g.traffic.Claims(), seqs) {
		all = append(all, checker.Violation{Invariant: "I10", Detail: detail})
	}
	for _, detail := range g.leaks {
		all = append(all, checker.Violation{Invariant: "I11", Detail: detail})
	}
	for code, n := range g.traffic.Codes() {
		if code != demo.NoAnswer && (code == im.CodeInternal || !slices.Contains(im.Codes(), code)) {
			all = append(all, checker.Violation{Invariant: "I12", Detail: fmt.Sprintf("%d answers of code %q", n, code)})
		}
	}
	return all
}

// claimSlack is how much later than a claim its user may note a message: the claim goes out before the message is shown.
const claimSlack = time.Second

// prematurely returns the messages that were called delivered before their recipient had them.
func prematurely(ops []demo.Op, claims []demo.Claim, seqs map[im.ID]map[im.Origin]uint64) []string {
	type key struct {
		conversation im.Conversation
		uid          im.UID
	}
	byUser := map[key][]demo.Claim{}
	for _, c := range claims {
		k := key{c.Conversation, c.UID}
		byUser[k] = append(byUser[k], c)
	}
	var wrong []string
	for _, op := range ops {
		seq, held := seqs[op.ID][op.Ack.Origin]
		if op.Acked.IsZero() || !held {
			continue
		}
		for _, shown := range op.Shown {
			for _, c := range byUser[key{op.Conversation, shown.UID}] {
				if c.Delivered.Covers(op.Ack.Origin, seq) && (shown.At.IsZero() || shown.At.After(c.At.Add(claimSlack))) {
					wrong = append(wrong, fmt.Sprintf("%s was called delivered to %s %v before it was shown", op.ID.ClientID, shown.UID, shown.At.Sub(c.At)))
					break
				}
			}
		}
	}
	return wrong[:min(len(wrong), 5)]
}

func (g *game) steps(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if s.Verb == "repeat" {
			for range s.Times.in(g.cfg.Long) {
				if err := g.steps(ctx, s.Steps); err != nil {
					return err
				}
			}
			continue
		}
		if err := g.step(ctx, s); err != nil {
			return fmt.Errorf("line %d: %s: %w", s.Line, s.Text, err)
		}
	}
	return nil
}

// step takes one step and notes it.
func (g *game) step(ctx context.Context, s Step) error {
	at := time.Now()
	if s.breaks() {
		g.broke = at
	}
	g.cfg.Log(s.Text)
	err := g.do(ctx, s, at)
	g.note(Event{
		At: at, Took: time.Since(at), Text: s.Text, Breaks: s.breaks(), Mends: s.mends(),
		Check: !s.breaks() && !s.mends(), Err: err,
	})
	return err
}

func (g *game) note(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result.Events = append(g.result.Events, e)
}

func (g *game) do(ctx context.Context, s Step, at time.Time) error {
	length := s.For.in(g.cfg.Long)
	switch s.Verb {
	case "cut", "split":
		return g.links(ctx, s.Links, g.on.Links.Cut)
	case "heal":
		return g.links(ctx, s.Links, g.on.Links.Heal)
	case "delay":
		return g.links(ctx, s.Links, func(ctx context.Context, from, to im.Region) error {
			return g.on.Links.Delay(ctx, from, to, length)
		})
	case "clock":
		return g.on.Members.Clock(ctx, s.Target, length)
	case "hold":
		return g.await(ctx, length+time.Minute, func() (bool, string) { return time.Since(at) >= length, "time passes" })
	case "flows":
		return g.await(ctx, length, func() (bool, string) { return g.traffic.Flows(at, s.From, s.To) })
	case "accepts":
		return g.await(ctx, length, func() (bool, string) { return g.traffic.Accepts(at, s.From...) })
	case "told":
		return g.await(ctx, length, func() (bool, string) {
			return len(g.traffic.Seen(g.broke, s.From...).Retried) > 0, fmt.Sprintf("nobody in %v was told to send again", s.From)
		})
	case "unnoticed":
		if seen := g.traffic.Seen(g.broke, s.From...); len(seen.Retried) > 0 || seen.Lost > 0 {
			return fmt.Errorf("users of %v noticed: %v", s.From, seen)
		}
		return nil
	default:
		return g.on.Members.Order(ctx, s.Verb, s.Target)
	}
}

func (g *game) links(ctx context.Context, named []Link, do func(ctx context.Context, from, to im.Region) error) error {
	for _, n := range named {
		for _, l := range n.of(g.on.Regions()) {
			if err := do(ctx, l.From, l.To); err != nil {
				return err
			}
		}
	}
	return nil
}

// mend undoes whatever the script left broken, and waits until the cluster is whole.
func (g *game) mend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Heal)
	defer cancel()
	at := time.Now()
	err := errors.Join(
		g.links(ctx, []Link{{}}, g.on.Links.Heal),
		g.links(ctx, []Link{{}}, func(ctx context.Context, from, to im.Region) error {
			return g.on.Links.Delay(ctx, from, to, g.delays[Link{from, to}])
		}),
		g.on.Members.Clock(ctx, "all", 0),
		g.on.Members.Order(ctx, "resume", "all"),
		g.on.Members.Order(ctx, "start", "all"),
		g.on.Members.WaitReady(ctx),
	)
	g.note(Event{At: at, Took: time.Since(at), Text: mendAll, Mends: true, Err: err})
	return err
}

// await polls for a state of the users.
func (g *game) await(ctx context.Context, limit time.Duration, state func() (ok bool, why string)) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for {
		ok, why := state()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", limit, why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sample notes the lags of the links until ctx ends. What does not answer leaves a gap.
func (g *game) sample(ctx context.Context) {
	every(ctx, sampleEvery, func() {
		state, err := g.on.Watcher.State(ctx)
		if err != nil {
			return
		}
		s := Sample{At: time.Now(), Lags: map[string]float64{}}
		for _, l := range state.Links {
			s.Lags[string(l.From)+" → "+string(l.To)] = l.LagSeconds
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.result.Samples = append(g.result.Samples, s)
	})
}

// pry has strangers try to read, in one region after the other, until ctx ends.
func (g *game) pry(ctx context.Context) {
	n := 0
	every(ctx, pryEvery, func() {
		regions := g.on.Regions()
		region := regions[n%len(regions)]
		n++
		ctx, cancel := context.WithTimeout(ctx, pryTimeout)
		defer cancel()
		if err := g.traffic.Pry(ctx, region); errors.Is(err, demo.ErrLeak) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if len(g.leaks) < 5 {
				g.leaks = append(g.leaks, err.Error())
			}
		}
	})
}

func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		do()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
