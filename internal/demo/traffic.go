package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/await"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/wire"
)

// TrafficConfig says who writes to whom, and how often.
type TrafficConfig struct {
	Name  string        // begins the uids, so that one cluster can carry several traffics after each other
	Pairs int           // pairs of users within each region, and between every two regions
	Group bool          // one conversation of users of all regions besides
	Super bool          // and one in the lane of super groups
	Churn bool          // somebody comes into the group and is removed again, all the time
	Every time.Duration // between one answer and a user's next message
	Ack   im.AckLevel   // that they ask for; im.AckRegion if empty
	Log   func(string)  // what is going on; may be nil
	// Took is how long somebody waited who did so from one moment to another, where the machine may stand still meanwhile; nil: it
	// does not.
	Took func(from, to time.Time) time.Duration

	Client func(*client.Config) // changes how each user's client is configured; may be nil
}

// Traffic is users of all regions who go on writing to each other, as a background for faults. Everything that they send
// and see is recorded with its time.
type Traffic struct {
	*crowd
	cfg     TrafficConfig
	ctx     context.Context // of the submits
	cancel  context.CancelFunc
	stop    chan struct{}
	stopped sync.Once
	writers sync.WaitGroup
	group   *chat // nil without one
}

// StartTraffic connects everybody and lets them write until Settle or Close.
func StartTraffic(ctx context.Context, cfg TrafficConfig, cluster Cluster) (*Traffic, error) {
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	if cfg.Ack == "" {
		cfg.Ack = im.AckRegion
	}
	if cfg.Took == nil {
		cfg.Took = func(from, to time.Time) time.Duration { return to.Sub(from) }
	}
	t := &Traffic{crowd: newCrowd(cluster, cfg.Log), cfg: cfg, stop: make(chan struct{})}
	t.configure = cfg.Client
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if err := t.gather(ctx); err != nil {
		t.Close()
		return nil, err
	}
	for _, c := range t.chats {
		for _, u := range c.members {
			t.writers.Go(func() { t.chatter(c, u) })
		}
	}
	if t.cfg.Churn && t.group != nil {
		t.writers.Go(func() { t.churn(im.UID(t.cfg.Name + "-guest")) })
	}
	return t, nil
}

// gather connects everybody, all at once: each alone may be far away.
func (t *Traffic) gather(ctx context.Context) error {
	var chats []*chat
	var seats [][]im.UID // of each chat, in the order of its members' regions
	var homes [][]im.Region
	seat := func(uids []im.UID, of ...im.Region) {
		chats = append(chats, &chat{members: make([]*user, len(of))})
		seats, homes = append(seats, uids), append(homes, of)
	}
	regions := t.cluster.Regions()
	for i, a := range regions {
		for _, b := range regions[i:] {
			for n := range t.cfg.Pairs {
				name := fmt.Sprintf("%s-%s-%s-%d-", t.cfg.Name, a, b, n)
				seat([]im.UID{im.UID(name + "a"), im.UID(name + "b")}, a, b)
				chats[len(chats)-1].conversation = im.Direct(im.UID(name+"a"), im.UID(name+"b"))
			}
		}
	}
	direct := len(chats)
	crowd := func(name string) (uids []im.UID) {
		for _, r := range regions {
			uids = append(uids, im.UID(fmt.Sprintf("%s-%s-%s", t.cfg.Name, name, r)))
		}
		seat(uids, regions...)
		return uids
	}
	var group, super []im.UID
	if t.cfg.Group {
		group = crowd("group")
	}
	if t.cfg.Super {
		super = crowd("super")
	}
	if err := t.seat(ctx, chats, seats, homes); err != nil {
		return err
	}
	at := direct
	if t.cfg.Group {
		var err error
		if chats[at].conversation, err = chats[at].members[0].client.CreateGroup(ctx, t.cfg.Name, group); err != nil {
			return fmt.Errorf("create a group: %w", err)
		}
		t.group, at = chats[at], at+1
	}
	if t.cfg.Super {
		var err error
		if chats[at].conversation, err = t.createSuper(ctx, chats[at].members[0], super); err != nil {
			return fmt.Errorf("create a super group: %w", err)
		}
	}
	t.chats = chats
	return nil
}

// createSuper creates a super group over HTTP: clients make ordinary ones only.
func (t *Traffic) createSuper(ctx context.Context, by *user, members []im.UID) (im.Conversation, error) {
	region, origin := by.client.Region()
	base, err := gatewayOf(ctx, t.cluster.IPConf(region), region)
	if err != nil {
		return "", err
	}
	token, _, err := t.cluster.Token(by.uid)
	if err != nil {
		return "", err
	}
	id := im.NewUUID(time.Now())
	group := im.Conversation("s:" + string(origin) + ":" + id.String())
	create := &wire.Create{Title: t.cfg.Name}
	for _, m := range members {
		create.Members = append(create.Members, string(m))
	}
	var refused *refusal // else it is sent again, as a client does
	if late := await.Within(ctx, createLimit, createEvery, func() (bool, string) {
		err = call(ctx, base, token, wire.MethodSubmit, &wire.SubmitRequest{
			Conversation: string(group), ClientId: id.String(), Content: &wire.SubmitCreate{Create: create},
		}, new(wire.SubmitResponse))
		return err == nil || errors.As(err, &refused), fmt.Sprint(err)
	}); late != nil {
		return "", late
	}
	return group, err
}

// A super group is to be created within a time, and tried so often.
const (
	createLimit = 30 * time.Second
	createEvery = 250 * time.Millisecond
)

// churn has somebody added to the group and removed, who never connects: the group's records are not messages alone.
func (t *Traffic) churn(guest im.UID) {
	by, in := t.group.members[0].client, t.group.conversation
	for n := 0; ; n++ {
		change := by.AddMembers
		if n%2 == 1 {
			change = by.RemoveMembers
		}
		if _, err := change(t.ctx, in, guest); err != nil {
			if t.ctx.Err() == nil {
				t.log(fmt.Sprintf("change %d of the members of %s was refused: %v", n, in, err))
			}
			return
		}
		select {
		case <-time.After(2 * t.cfg.Every):
		case <-t.stop:
			return
		}
	}
}

// seat connects the members of chats.
func (t *Traffic) seat(ctx context.Context, chats []*chat, uids [][]im.UID, homes [][]im.Region) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	for i, c := range chats {
		for at, uid := range uids[i] {
			wg.Go(func() {
				u, err := t.user(ctx, uid, homes[i][at])
				c.members[at] = u
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					failures = append(failures, err)
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(failures...)
}

// chatter writes one message after the other. The client sends each again until it is acked.
func (t *Traffic) chatter(c *chat, u *user) {
	for n := 0; ; n++ {
		if err := t.submit(t.ctx, c, u, fmt.Sprintf("%s says %d", u.uid, n), client.WithAck(t.cfg.Ack)); err != nil {
			if t.ctx.Err() == nil {
				t.log(fmt.Sprintf("%s: message %d to %s was refused: %v", u.uid, n, c.conversation, err))
			}
			return
		}
		select {
		case <-time.After(t.cfg.Every):
		case <-t.stop:
			return
		}
	}
}

// Flows tells whether, since a time, every user whose home is in from had a message acked that everybody of the conversation
// whose home is in to was shown. No regions mean all. If not, why names somebody who waits.
func (t *Traffic) Flows(since time.Time, from, to []im.Region) (ok bool, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	through := map[*user]map[*user]bool{}
	for _, s := range t.submits {
		if !s.Acked || s.sent.Before(since) {
			continue
		}
		for _, u := range s.in.members {
			if !u.when(s.ID).IsZero() {
				if through[s.by] == nil {
					through[s.by] = map[*user]bool{}
				}
				through[s.by][u] = true
			}
		}
	}
	for _, c := range t.chats {
		for _, a := range c.members {
			for _, b := range c.members {
				if within(a.region, from) && within(b.region, to) && !through[a][b] {
					return false, fmt.Sprintf("nothing that %s sent was acked and shown to %s", a.uid, b.uid)
				}
			}
		}
	}
	return true, ""
}

func within(r im.Region, of []im.Region) bool { return len(of) == 0 || slices.Contains(of, r) }

// Accepts tells whether, since a time, every user whose home is in from had a message acked.
func (t *Traffic) Accepts(since time.Time, from ...im.Region) (ok bool, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	acked := map[*user]bool{}
	for _, s := range t.submits {
		if s.Acked && s.sent.After(since) {
			acked[s.by] = true
		}
	}
	for _, u := range t.users {
		if within(u.region, from) && !acked[u] {
			return false, fmt.Sprintf("nothing that %s sent was acked", u.uid)
		}
	}
	return true, ""
}

// Kept tells whether all messages that a region acked as global were shown to the users whose home is in another one, and
// how many there are.
func (t *Traffic) Kept(by, in im.Region) (ok bool, messages int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ok = true
	for _, s := range t.submits {
		if !s.Acked || !s.Ack.Global || s.Ack.Origin.Region() != by {
			continue
		}
		for _, u := range s.in.members {
			if u.region == in {
				messages++
				ok = ok && !u.when(s.ID).IsZero()
			}
		}
	}
	return ok, messages
}

// Seen is what users noticed.
type Seen struct {
	Sent    int
	Retried map[im.Code]int // answers that made their clients send a submit again
	Lost    int             // sockets that went
	Excused int             // of either, those that came soon after the machine had stood still
	Polled  int             // users who had to use a long poll at any time
	// LongestAck is the longest that anybody waited for an ack, LongestShow from sending to the last one's being shown it.
	// What is still waited for counts up to now.
	LongestAck, LongestShow time.Duration
}

// String is what users noticed in a few words.
func (s Seen) String() string {
	var codes []string
	for _, c := range slices.Sorted(maps.Keys(s.Retried)) {
		codes = append(codes, fmt.Sprintf("%s %d", c, s.Retried[c]))
	}
	answers := "none"
	if codes != nil {
		answers = strings.Join(codes, ", ")
	}
	return fmt.Sprintf("errors: %s; sockets lost: %d; longest ack %.1f s, show %.1f s",
		answers, s.Lost, s.LongestAck.Seconds(), s.LongestShow.Seconds())
}

// Where a machine stood still for so long, deadlines passed and leases ended that a machine which runs keeps. What comes of it,
// clients are told within a time.
const (
	stood = time.Second
	soon  = 10 * time.Second
)

// Troubles counts what made a client send again or log in again, without what is excused.
func (s Seen) Troubles() int {
	n := s.Lost - s.Excused
	for _, answers := range s.Retried {
		n += answers
	}
	return n
}

// Seen sums up what users whose home is in some regions (none: all) noticed of what was sent since a time.
func (t *Traffic) Seen(since time.Time, regions ...im.Region) Seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	seen := Seen{Retried: map[im.Code]int{}}
	for _, s := range t.submits {
		if s.sent.Before(since) {
			continue
		}
		until := func(end time.Time) time.Duration {
			if end.IsZero() {
				end = now
			}
			return t.cfg.Took(s.sent, end)
		}
		if within(s.by.region, regions) {
			seen.Sent++
			seen.LongestAck = max(seen.LongestAck, until(s.acked))
		}
		for _, u := range s.in.members {
			if within(u.region, regions) {
				shown := time.Time{}
				if s.Acked {
					shown = u.when(s.ID)
				}
				seen.LongestShow = max(seen.LongestShow, until(shown))
			}
		}
	}
	for _, u := range t.users {
		if !within(u.region, regions) {
			continue
		}
		u.mu.Lock()
		if u.polled {
			seen.Polled++
		}
		for _, x := range u.troubles {
			switch {
			case x.at.Before(since):
				continue
			case x.code == "":
				seen.Lost++
			default:
				seen.Retried[x.code]++
			}
			if t.cfg.Took(x.at.Add(-soon), x.at) <= soon-stood {
				seen.Excused++
			}
		}
		u.mu.Unlock()
	}
	return seen
}

// Gateways counts the users by the gateway (region/id) that took them last.
func (t *Traffic) Gateways() map[string]int {
	all := map[string]int{}
	for _, u := range t.users {
		u.mu.Lock()
		all[u.gateway]++
		u.mu.Unlock()
	}
	return all
}

// MayLose has Settle not wait for what an origin acked in its region only: the origin is lost, and so may that be.
func (t *Traffic) MayLose(o im.Origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = o
}

// Stop has nobody begin another message.
func (t *Traffic) Stop() {
	t.stopped.Do(func() { close(t.stop) })
}

// Settle ends the writing, waits until everything sent is acked, shown and applied everywhere and all views are equal, and
// returns what was recorded. What does not come true in time is recorded as it is, for the checker to name. An error means
// that somebody's message was not acked, or that a region could not be asked. Views are equal only when nobody else writes.
func (t *Traffic) Settle(ctx context.Context, limit time.Duration, truth Truth) (*checker.History, error) {
	t.Stop()
	ended := make(chan struct{})
	go func() { t.writers.Wait(); close(ended) }()
	bound := time.NewTimer(limit)
	defer bound.Stop()
	select {
	case <-ended:
	case <-bound.C:
		t.cancel()
		<-ended
	case <-ctx.Done():
		t.cancel()
		<-ended
		return t.history(), ctx.Err()
	}
	h := t.history()
	unacked := len(h.Submits)
	for _, s := range h.Submits {
		if s.Acked {
			unacked--
		}
	}
	if unacked > 0 {
		return h, fmt.Errorf("%d of %d messages were never acked", unacked, len(h.Submits))
	}
	return h, t.settle(ctx, limit, truth, h)
}

// Close ends everything.
func (t *Traffic) Close() {
	t.Stop()
	t.cancel()
	t.writers.Wait()
	t.close()
}
