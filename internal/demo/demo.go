// Package demo plays one scenario on a running cluster and has it judged: users of all regions write to each other while
// links are cut and healed and a gateway is killed; then everything that clients and regions saw is checked against the
// invariants (package checker).
package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
)

// Cluster is where the scenario plays.
type Cluster interface {
	Regions() []im.Region
	IPConf(r im.Region) string // base URL
	Token(uid im.UID) (token string, expires time.Time, err error)
}

// Faults breaks and mends parts of the cluster.
type Faults interface {
	Cut(ctx context.Context, from, to im.Region) error
	Heal(ctx context.Context, from, to im.Region) error
	KillGateway(ctx context.Context, r im.Region, id string) error
	RestartGateway(ctx context.Context, r im.Region, id string) error
}

// Truth tells what the regions hold, past their clients.
type Truth interface {
	// Logged reads every origin's own log from its start.
	Logged(ctx context.Context) ([]checker.Logged, error)
	// Behind lists the partitions of which a region's timelines lack what is in the origin's log now.
	Behind(ctx context.Context) ([]checker.Behind, error)
	Digests(ctx context.Context) (map[im.Region]map[string]string, error)
}

// Config says how much is played.
type Config struct {
	PerPair int           // messages between every pair of regions, both ways together
	Users   int           // pairs of users for each pair of regions
	Group   int           // messages to one group with a member in every region
	Length  time.Duration // over which they are sent
	Settle  time.Duration // how long everything may take to arrive after the last fault
	Gateway string        // id of the gateway that is killed, in the second region
	Prefix  string        // of all users, so that a cluster that is used again has no former conversations of theirs
	Log     func(string)  // what is going on; may be nil
}

// Check tells what of it cannot be played in a number of regions.
func (c *Config) Check(regions int) error {
	switch least := 2 * c.Users; {
	case regions < 2 || regions > 8:
		return fmt.Errorf("%d regions: want 2 to 8", regions)
	case c.Users < 1:
		return fmt.Errorf("--users %d: want 1 or more", c.Users)
	case c.PerPair < least:
		return fmt.Errorf("--messages %d: want %d or more, one for each of the users of a pair of regions (--users %d)", c.PerPair, least, c.Users)
	case c.Group != 0 && c.Group < regions:
		return fmt.Errorf("--group %d: want %d or more, one for each region, or 0 for no group", c.Group, regions)
	case c.Length <= 0:
		return fmt.Errorf("--length %v: want more than 0", c.Length)
	case c.Settle <= 0:
		return fmt.Errorf("--settle %v: want more than 0", c.Settle)
	}
	return nil
}

// play is the scenario under way.
type play struct {
	cfg Config
	*crowd
}

// Run plays the scenario and returns what was recorded. An error means that it could not be played or did not settle; what
// was recorded so far is returned beside it.
func Run(ctx context.Context, cfg Config, cluster Cluster, faults Faults, truth Truth) (*checker.History, error) {
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	if err := cfg.Check(len(cluster.Regions())); err != nil {
		return nil, err
	}
	p := &play{cfg, newCrowd(cluster, cfg.Log)}
	defer p.close()
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	cfg.Log(fmt.Sprintf("%d users connected in %d regions, %d conversations", len(p.users), len(cluster.Regions()), len(p.chats)))

	sending, cancel := context.WithTimeout(ctx, cfg.Length+cfg.Settle)
	defer cancel()
	var wg sync.WaitGroup
	var broken error
	wg.Go(func() { broken = p.breakThings(sending, faults) })
	sendErr := p.send(sending)
	wg.Wait()
	h := p.history()
	if err := errors.Join(sendErr, broken); err != nil {
		return h, err
	}
	cfg.Log("everything sent; waiting for the last messages to arrive")
	if err := p.settle(ctx, cfg.Settle, truth, h); err != nil {
		return h, err
	}
	return h, nil
}

func (p *play) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	regions := p.cluster.Regions()
	for i, a := range regions {
		for _, b := range regions[i+1:] {
			for n := range p.cfg.Users {
				ua, err := p.user(ctx, im.UID(fmt.Sprintf("%s%s-to-%s-%d", p.cfg.Prefix, a, b, n)), a)
				if err != nil {
					return err
				}
				ub, err := p.user(ctx, im.UID(fmt.Sprintf("%s%s-to-%s-%d", p.cfg.Prefix, b, a, n)), b)
				if err != nil {
					return err
				}
				p.chats = append(p.chats, &chat{im.Direct(ua.uid, ub.uid), []*user{ua, ub}})
			}
		}
	}
	if p.cfg.Group == 0 {
		return nil
	}
	group := new(chat)
	var uids []im.UID
	for _, r := range regions {
		u, err := p.user(ctx, im.UID(p.cfg.Prefix+"group-"+string(r)), r)
		if err != nil {
			return err
		}
		group.members = append(group.members, u)
		uids = append(uids, u.uid)
	}
	var err error
	group.conversation, err = group.members[0].client.CreateGroup(ctx, "Everyone", uids)
	if err != nil {
		return fmt.Errorf("create a group: %w", err)
	}
	p.chats = append(p.chats, group)
	return nil
}

// send has every member of every conversation write its share, one message after the other.
func (p *play) send(ctx context.Context) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, c := range p.chats {
		share := p.cfg.PerPair / p.cfg.Users / len(c.members)
		if c.conversation.Lane() == im.LaneGroup {
			share = p.cfg.Group / len(c.members)
		}
		for _, u := range c.members {
			wg.Go(func() {
				if err := p.write(ctx, c, u, share); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return failed
}

func (p *play) write(ctx context.Context, c *chat, u *user, n int) error {
	pace := time.NewTicker(p.cfg.Length / time.Duration(n))
	defer pace.Stop()
	for i := range n {
		if err := p.submit(ctx, c, u, fmt.Sprintf("%s says %d", u.uid, i)); err != nil {
			return fmt.Errorf("%s: message %d to %s was not acknowledged: %w", u.uid, i, c.conversation, err)
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// breakThings cuts each link in turn and heals it, and kills a gateway meanwhile.
func (p *play) breakThings(ctx context.Context, faults Faults) error {
	regions := p.cluster.Regions()
	links := len(regions) * (len(regions) - 1)
	step := p.cfg.Length / time.Duration(links+1)
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	victim := regions[min(1, len(regions)-1)]
	cut := 0
	for _, from := range regions {
		for _, to := range regions {
			if from == to {
				continue
			}
			if err := faults.Cut(ctx, from, to); err != nil {
				return err
			}
			p.cfg.Log(fmt.Sprintf("link %s → %s is cut", from, to))
			if cut == links/3 && p.cfg.Gateway != "" {
				if err := faults.KillGateway(ctx, victim, p.cfg.Gateway); err != nil {
					return err
				}
				p.cfg.Log(fmt.Sprintf("%s of %s is killed", p.cfg.Gateway, victim))
			}
			err := wait(step)
			if err := errors.Join(err, faults.Heal(context.WithoutCancel(ctx), from, to)); err != nil {
				return err
			}
			cut++
		}
	}
	if p.cfg.Gateway == "" {
		return nil
	}
	if err := faults.RestartGateway(ctx, victim, p.cfg.Gateway); err != nil {
		return err
	}
	p.cfg.Log(fmt.Sprintf("all links are healed, %s of %s is back", p.cfg.Gateway, victim))
	return nil
}

// Line sums a history up in one line.
func Line(h *checker.History, violations []checker.Violation, took time.Duration) string {
	s := checker.Summarize(h)
	verdict := func(compared int, invariants ...string) string {
		if compared == 0 {
			return "not checked" // the run ended before its views were read
		}
		for _, v := range violations {
			for _, i := range invariants {
				if v.Invariant == i {
					return "NO"
				}
			}
		}
		return "yes"
	}
	return fmt.Sprintf("sent %d, acked %d, received exactly once %d, order equal in all %d regions: %s, view digests equal: %s (%.1f s)",
		s.Sent, s.Acked, s.ReceivedOnce, s.Regions, verdict(s.Regions, "I3", "I5"), verdict(s.Digests, "I9"), took.Seconds())
}

// Explain lists violations, one a line.
func Explain(violations []checker.Violation) string {
	var b strings.Builder
	for _, v := range violations {
		fmt.Fprintln(&b, v)
	}
	return b.String()
}
