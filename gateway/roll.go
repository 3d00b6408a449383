package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// A push to a large group comes once, whoever of it is here, and says as of which changes of membership it was made. It is
// handed to the sessions that are members as of those or later ones, and were so where its record stands: never to one that
// was removed before, or added after. As long as this gateway knows of fewer changes, or has sessions of which it does not know,
// the push waits while the service is asked who is in:
//
//	router                        this gateway                            service
//	   │ ── push, changes eu=7 ───▶ │ knows all of its sessions as of eu=7: hands it on
//	   │ ── push, changes eu=9 ───▶ │ does not: it waits
//	   │                            │ ── roll: ann, bob, eve? ────────────▶ │
//	   │                            │ ◀───────────── as of eu=9: ann, bob │
//	   │                            │ hands it to ann and bob; eve is out
//
// So nothing rests on the order in which routers push. A push that is the very next change names whom that concerns: these are
// asked about, and all others stay as they are.

const (
	// maxRoll bounds the sessions that are asked about at once.
	maxRoll = 2048
	// maxRolls bounds the calls for it that are under way.
	maxRolls = 64
	// rollTime is how long pushes may wait, and rollTimeout how long one call may take.
	rollTime    = 2 * time.Second
	rollTimeout = time.Second
	// maxWaiting and maxWaitingBytes bound the pushes of one group that wait.
	maxWaiting      = 256
	maxWaitingBytes = 1 << 20
)

// groupPush is a push to a group.
type groupPush struct {
	push     *wire.PreparedPush
	interest *im.Interest
	at       time.Time
	traced   bool
}

// take hands a push to those of a group's sessions that it is for, at once or when that is known.
func (i *interests) take(g *interest, p groupPush) {
	if p.interest == nil { // it came by somebody who knows nothing of it; the log brings its record
		i.shed("group")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note(p.interest)
	switch {
	case len(g.sessions) == 0: // released since
	case len(g.waiting) == 0 && g.knows(&p):
		g.give(&p, i.hand)
	case len(g.waiting) >= maxWaiting || g.bytes+p.push.Size() > maxWaitingBytes:
		i.shed("group")
		g.waiting, g.bytes = nil, 0
		g.miss()
	default:
		g.waiting, g.bytes = append(g.waiting, p), g.bytes+p.push.Size()
		if !g.asking {
			g.asking = true
			i.asks.put(g)
		}
	}
}

// note takes the change of membership that a push is, if it is the next one: whom it names is to be asked about, all others
// are as they were. The caller holds mu.
func (g *interest) note(in *im.Interest) {
	if len(in.Before) == 0 || !in.Before.CoversAll(g.changes) || !g.changes.CoversAll(in.Before) {
		return
	}
	g.changes = in.Changes
	for s, m := range g.sessions {
		if m.sure && slices.Contains(in.Changed, s.uid) {
			m.sure = false
			g.sessions[s] = m
			g.unsure++
		}
	}
}

// knows tells whether it is known for whom a push is. The caller holds mu.
func (g *interest) knows(p *groupPush) bool {
	return g.unsure == 0 && g.changes.CoversAll(p.interest.Changes)
}

// give hands a push on, traced for some. The caller holds mu.
func (g *interest) give(p *groupPush, hand func(s *session, p *groupPush, traced bool)) {
	given := 0
	for s, m := range g.sessions {
		if m.since.Compare(p.interest.Place) <= 0 {
			hand(s, p, p.traced && given < maxTracedConns)
			given++
		}
	}
}

// miss has the clients of the group pull. The caller holds mu.
func (g *interest) miss() {
	for s := range g.sessions {
		s.miss()
	}
}

func (g *interest) waits() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting) > 0
}

// pick returns some sessions to ask about, and whom to ask.
func (g *interest) pick() (service string, asked []*session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		return "", nil
	}
	service, _, _, _ = g.waiting[0].push.Parts()
	for s, m := range g.sessions {
		if g.unsure > 0 && m.sure {
			continue
		}
		if asked = append(asked, s); len(asked) == maxRoll {
			break
		}
	}
	return service, asked
}

// told takes the answer about some sessions, or why there is none, and hands on what waited for it. done: nothing waits any
// more. further: there is more to ask about at once.
func (i *interests) told(g *interest, asked []*session, roll im.Roll, failed error, now time.Time, epoch uint64) (done, further bool) {
	i.mu.Lock()
	g.mu.Lock()
	defer g.mu.Unlock()
	fresh := failed == nil && roll.Changes.CoversAll(g.changes) // else it is from a time before
	if fresh {
		i.learn(g, asked, roll, epoch)
	}
	i.mu.Unlock()
	late := false
	g.bytes = 0
	g.waiting = slices.DeleteFunc(g.waiting, func(p groupPush) bool {
		switch {
		case g.knows(&p):
			g.give(&p, i.hand)
			return true
		case now.Sub(p.at) > rollTime:
			late = true
			return true
		}
		g.bytes += p.push.Size()
		return false
	})
	if late {
		i.shed("group")
		if failed != nil { // else the region does not know of the change yet; when it does, it delivers the record itself
			g.miss()
		}
	}
	if len(g.waiting) == 0 {
		g.waiting, g.asking = nil, false
		return true, false
	}
	return false, fresh && g.unsure > 0
}

// learn takes a roll that is no older than what is known. The caller holds both locks.
func (i *interests) learn(g *interest, asked []*session, roll im.Roll, epoch uint64) {
	if !g.changes.CoversAll(roll.Changes) { // whom it does not tell of may have come or gone
		g.changes = roll.Changes
		for s, m := range g.sessions {
			m.sure = false
			g.sessions[s] = m
		}
		g.unsure = len(g.sessions)
	}
	for _, s := range asked {
		m, here := g.sessions[s]
		if !here {
			continue
		}
		since, in := roll.Members[s.uid]
		if !in {
			i.remove(s, g, epoch)
			i.of[s] = slices.DeleteFunc(i.of[s], func(of *interest) bool { return of == g })
			if len(i.of[s]) == 0 {
				delete(i.of, s)
			}
			continue
		}
		if !m.sure {
			g.unsure--
		}
		m.sure, m.since = true, since
		g.sessions[s] = m
	}
}

// asks are the groups of which pushes wait and nobody asks yet.
type asks struct {
	wake   chan struct{}
	mu     sync.Mutex
	groups []*interest
}

func (a *asks) put(g *interest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.groups = append(a.groups, g)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *asks) all() []*interest {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.groups
	a.groups = nil
	return all
}

// askRolls asks who is in groups, for the pushes that wait, until the gateway ends.
func (g *Gateway) askRolls() {
	var asking sync.WaitGroup
	defer asking.Wait()
	slots := make(chan struct{}, maxRolls)
	for {
		select {
		case <-g.base.Done():
			return
		case <-g.interests.asks.wake:
		}
		for _, group := range g.interests.asks.all() {
			asking.Go(func() { g.askRoll(group, slots) })
		}
	}
}

// askRoll asks until nothing waits.
func (g *Gateway) askRoll(group *interest, slots chan struct{}) {
	wait := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 500 * time.Millisecond}
	for g.base.Err() == nil {
		service, asked := group.pick()
		var roll im.Roll
		var err error
		if len(asked) > 0 {
			slots <- struct{}{}
			roll, err = g.roll(service, group.group, asked)
			<-slots
		}
		if g.successor.begin() != nil { // the other process has the sessions, and told them that they missed something
			return
		}
		done, further := g.interests.told(group, asked, roll, err, time.Now(), g.epochNow())
		g.successor.end()
		if done {
			return
		}
		if further {
			continue
		}
		select {
		case <-g.base.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// roll asks a service who of some sessions is in a group.
func (g *Gateway) roll(service string, group im.UID, asked []*session) (im.Roll, error) {
	uids := make([]im.UID, len(asked))
	for i, s := range asked {
		uids[i] = s.uid
	}
	slices.Sort(uids)
	body, err := wire.EncodeRollRequest(slices.Compact(uids))
	if err != nil {
		return im.Roll{}, err
	}
	ctx, cancel := context.WithTimeout(g.base, rollTimeout)
	defer cancel()
	result, err := g.deps.Backend.Call(ctx, im.Call{Service: service, Method: wire.MethodRoll, Key: string(group), Body: body})
	if err != nil {
		return im.Roll{}, err
	}
	return wire.DecodeRoll(result.Body)
}

// informEvery is how often a session is looked at, in seconds: a shard of them each second.
const informEvery = hubShards

// maxLooks is how often a session is looked at whose client does not list.
const maxLooks = 4

// inform has clients list of whom no service has said which groups they are in, though services do: they came from a process or
// a gateway, or listed at an instance, that knew nothing of it. A session is left alone when it is looked at first: it may
// have just begun.
func (g *Gateway) inform(second int) {
	if !g.telling.Load() || g.successor.begin() != nil {
		return
	}
	defer g.successor.end()
	shard := &g.hub.ids[second%informEvery]
	shard.mu.Lock()
	sessions := make([]*session, 0, len(shard.sessions))
	for _, s := range shard.sessions {
		sessions = append(sessions, s)
	}
	shard.mu.Unlock()
	for _, s := range sessions {
		if s.uninformed() {
			s.miss()
		}
	}
}

// uninformed tells whether the client is to list.
func (s *session) uninformed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.informed || s.ended != "" || s.looked >= maxLooks {
		return false
	}
	s.looked++
	return s.looked > 1
}

// learnGroups notes that a service said which groups the session is in.
func (s *session) learnGroups() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.informed = true
}
