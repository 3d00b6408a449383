package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
)

// crowd is users who write to each other, with everything that they saw.
type crowd struct {
	cluster Cluster
	log     func(string)
	users   []*user
	chats   []*chat

	configure func(*client.Config) // may be nil

	mu      sync.Mutex
	submits []submit
	lost    im.Origin // empty: none
}

// submit is what a user sent, and when.
type submit struct {
	checker.Submit
	by          *user
	in          *chat
	sent, acked time.Time
}

type chat struct {
	conversation im.Conversation
	members      []*user
}

type user struct {
	uid    im.UID
	region im.Region
	client *client.Client

	events sync.WaitGroup

	mu       sync.Mutex
	emitted  map[im.Conversation][]im.ID
	shown    map[im.ID]time.Time // when each was first emitted
	claims   []Claim
	troubles []trouble
	gateway  string // region/id of the last one that took the login
	polled   bool   // it used a long poll
}

// NoAnswer stands for the code of an answer where there was none: nothing was reached, or the answer was lost.
const NoAnswer im.Code = "no answer"

// trouble is something that a client had to deal with by itself.
type trouble struct {
	at   time.Time
	code im.Code // of the answer to a submit that was sent again; empty: the socket was lost
}

func newCrowd(cluster Cluster, log func(string)) *crowd { return &crowd{cluster: cluster, log: log} }

func (p *crowd) close() {
	for _, u := range p.users {
		u.client.Close()
		u.events.Wait()
	}
}

func (p *crowd) user(ctx context.Context, uid im.UID, region im.Region) (*user, error) {
	token, _, err := p.cluster.Token(uid)
	if err != nil {
		return nil, err
	}
	ipconf := []string{p.cluster.IPConf(region)}
	for _, r := range p.cluster.Regions() {
		if r != region {
			ipconf = append(ipconf, p.cluster.IPConf(r))
		}
	}
	cfg := client.Config{
		IPConf: ipconf, Region: region, UID: uid, Token: client.StaticToken(token), Platform: "desktop", Agent: "antipode-demo",
	}
	if p.configure != nil {
		p.configure(&cfg)
	}
	c, err := client.Dial(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect %s in %s: %w", uid, region, err)
	}
	u := &user{uid: uid, region: region, client: c, emitted: map[im.Conversation][]im.ID{}, shown: map[im.ID]time.Time{}}
	u.events.Go(func() {
		for e := range c.Events() {
			u.see(e)
		}
	})
	p.mu.Lock()
	p.users = append(p.users, u)
	p.mu.Unlock()
	return u, nil
}

func (u *user) see(e client.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch e := e.(type) {
	case client.Inserted:
		if e.Message.Kind != im.KindMessage {
			return
		}
		u.emitted[e.Conversation] = append(u.emitted[e.Conversation], e.Message.ID)
		if _, again := u.shown[e.Message.ID]; !again {
			u.shown[e.Message.ID] = time.Now()
		}
	case client.Receipt:
		if len(u.claims) < maxClaims {
			u.claims = append(u.claims, Claim{UID: e.UID, Conversation: e.Conversation, Delivered: e.Delivered, At: time.Now()})
		}
	case client.Connected:
		u.gateway = string(e.Region) + "/" + e.Gateway
		u.polled = u.polled || e.LongPoll
	case client.Retried:
		code := NoAnswer
		if answer, ok := errors.AsType[*im.Error](e.Err); ok {
			code = answer.Code
		}
		u.troubles = append(u.troubles, trouble{time.Now(), code})
	case client.Disconnected:
		u.troubles = append(u.troubles, trouble{at: time.Now()})
	}
}

// when tells when the user was first shown a message; zero if not yet.
func (u *user) when(id im.ID) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shown[id]
}

// submit sends a message and records it with its answer.
func (p *crowd) submit(ctx context.Context, c *chat, u *user, text string, opts ...client.SubmitOption) error {
	s := submit{by: u, in: c, sent: time.Now()}
	if shown := u.client.Messages(c.conversation); len(shown) > 0 {
		s.Seen = shown[len(shown)-1].Place.Stamp
	}
	s.Conn = string(u.uid)
	p.mu.Lock()
	at := len(p.submits)
	p.submits = append(p.submits, s)
	p.mu.Unlock()
	ack, err := u.client.Submit(ctx, c.conversation, text, opts...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.submits[at].ID, p.submits[at].Ack, p.submits[at].Acked, p.submits[at].acked = ack.ID, ack, true, time.Now()
	}
	return err
}

// history is what was sent so far.
func (p *crowd) history() *checker.History {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := new(checker.History)
	for _, s := range p.submits {
		h.Submits = append(h.Submits, s.Submit)
	}
	return h
}

// settle waits until every client shows every acked message, all logs are applied everywhere and all views are equal; then it
// records what there is. What does not come true in time is recorded as it is, for the checker to name.
func (p *crowd) settle(ctx context.Context, within time.Duration, truth Truth, h *checker.History) error {
	deadline := time.Now().Add(within)
	waitFor := func(what string, done func() (bool, error)) error {
		for {
			ok, err := done()
			if ok {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Now().After(deadline) {
				if err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
				p.log("not in time: " + what)
				return nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	err := waitFor("every client shows every message", func() (bool, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.submits {
			if s.Ack.Origin == p.lost && !s.Ack.Global { // its answer said: accepted in region only
				continue
			}
			for _, u := range s.in.members {
				if s.Acked && u.when(s.ID).IsZero() {
					return false, nil
				}
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	err = waitFor("every region applied every log", func() (bool, error) {
		var err error
		h.Behind, err = truth.Behind(ctx)
		return err == nil && len(h.Behind) == 0, err
	})
	if err != nil {
		return err
	}
	err = waitFor("all views are equal", func() (bool, error) {
		var err error
		h.Digests, err = truth.Digests(ctx)
		return err == nil && equal(h.Digests), err
	})
	if err != nil {
		return err
	}
	if h.Logs, err = truth.Logged(ctx); err != nil {
		return err
	}
	for _, c := range p.chats {
		for _, u := range c.members {
			h.Receivers = append(h.Receivers, u.receiver(c.conversation))
		}
		for _, r := range p.cluster.Regions() {
			t, err := p.pull(ctx, r, c)
			if err != nil {
				return fmt.Errorf("pull %s in %s: %w", c.conversation, r, err)
			}
			h.Timelines = append(h.Timelines, t)
		}
	}
	return nil
}

func (u *user) receiver(c im.Conversation) checker.Receiver {
	r := checker.Receiver{Name: string(u.uid), Conversation: c}
	u.mu.Lock()
	r.Emitted = u.emitted[c]
	u.mu.Unlock()
	for _, m := range u.client.Messages(c) {
		if m.Kind == im.KindMessage {
			r.Shown = append(r.Shown, checker.Sighting{ID: m.ID, Place: m.Place})
		}
	}
	return r
}

func equal(digests map[im.Region]map[string]string) bool {
	return len(checker.Check(&checker.History{Digests: digests})) == 0
}
