package gateway

import (
	"sync"

	"github.com/antipode-im/antipode/im"
)

// maxInterests bounds the groups of one session.
const maxInterests = 1024

// interests are the large groups of which this gateway has sessions. Routers are told of a group once, however many there
// are: by a route of its own, whose uid is im.InterestIn and whose device is this gateway, with a conn number that stands for
// all of them. So a group's message comes here once, and what routes do (claimed anew, void with the gateway's epoch, shipped
// to every region) interest does too.
//
// Services say whose sessions may be in a group: a call's result joins its caller, a push whom it is for. Whether they are,
// and since when, is asked of the service before a group's push is handed on (roll.go).
type interests struct {
	region  im.Region
	gateway string
	number  func() uint64                    // the next conn number
	put     func(im.Claim, func(bool)) bool  // queues a claim; called in the order of changes
	shed    func(string)                     // counts what was left out
	hand    func(*session, *groupPush, bool) // to a session that a push is for; whether it is traced
	asks    *asks

	mu     sync.RWMutex // before that of an interest
	groups map[im.UID]*interest
	conns  map[uint64]*interest
	of     map[*session][]*interest
}

// interest is one group. Lock order: interests.mu, mu, that of a session.
type interest struct {
	group im.UID
	conn  uint64

	mu       sync.Mutex
	claimed  bool      // routers know of it: what is pushed to the group comes here
	changes  im.Cursor // of membership: those that are taken into account where a session is sure
	sessions map[*session]member
	unsure   int         // of them
	waiting  []groupPush // until it is known for whom they are, oldest first
	bytes    int         // of waiting
	asking   bool        // somebody finds that out
}

// member is what is known of a session that may be in a group.
type member struct {
	sure  bool     // it is in the group
	since im.Place // then: where what added it stands
	moved bool     // it came from another gateway, which passes on what comes until this one's claim is known
}

func newInterests(region im.Region, gateway string, number func() uint64, put func(im.Claim, func(bool)) bool, shed func(string)) *interests {
	return &interests{
		region: region, gateway: gateway, number: number, put: put, shed: shed, asks: &asks{wake: make(chan struct{}, 1)},
		groups: map[im.UID]*interest{}, conns: map[uint64]*interest{}, of: map[*session][]*interest{},
	}
}

// claim is the route of a group. The epoch is its login number: a later life of this gateway wins over an earlier one.
func (i *interests) claim(g *interest, epoch uint64) im.Claim {
	return im.Claim{
		UID: g.group, Device: im.DeviceID(string(i.region) + "/" + i.gateway), Conn: g.conn, Login: epoch,
	}
}

// announce queues the claim of a group, with the lock held: it must not come behind its release. One that is lost is queued
// again, as long as somebody is in the group.
func (i *interests) announce(g *interest, epoch uint64) {
	if !i.put(i.claim(g, epoch), func(taken bool) { i.answered(g, epoch, taken) }) {
		i.shed("interest")
	}
}

// answered hears what became of a claim. From now on the group's pushes come here; those who joined before may have missed
// some.
func (i *interests) answered(g *interest, epoch uint64, taken bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.conns[g.conn] != g: // released since
	case taken:
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.claimed {
			return
		}
		g.claimed = true
		for s, m := range g.sessions {
			if !m.moved {
				s.miss()
			}
		}
	default:
		i.announce(g, epoch)
	}
}

// join adds a session to groups, and claims those that are new here. False: the session has ended.
func (i *interests) join(s *session, groups []im.UID, epoch uint64) bool {
	return i.joinAs(s, groups, member{}, epoch)
}

func (i *interests) joinAs(s *session, groups []im.UID, m member, epoch uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	s.mu.Lock()
	ended := s.ended != ""
	s.mu.Unlock()
	if ended {
		return false
	}
	for _, name := range groups {
		g := i.groups[name]
		switch {
		case g.has(s):
			continue
		case len(i.of[s]) >= maxInterests:
			i.shed("groups")
			return true
		case g == nil:
			g = i.begin(name, i.number())
			i.announce(g, epoch)
		}
		i.enter(s, g, m)
	}
	return true
}

func (i *interests) begin(name im.UID, conn uint64) *interest {
	g := &interest{group: name, conn: conn, sessions: map[*session]member{}}
	i.groups[name], i.conns[conn] = g, g
	return g
}

func (i *interests) enter(s *session, g *interest, m member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions[s] = m
	g.unsure++
	i.of[s] = append(i.of[s], g)
}

func (g *interest) has(s *session) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, in := g.sessions[s]
	return in
}

// drop takes a session that ended out of all groups, and releases those that nobody here is in any more.
func (i *interests) drop(s *session, epoch uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, g := range i.of[s] {
		g.mu.Lock()
		i.remove(s, g, epoch)
		g.mu.Unlock()
	}
	delete(i.of, s)
}

// remove takes a session out of a group. The caller holds both locks, and sees to i.of.
func (i *interests) remove(s *session, g *interest, epoch uint64) {
	if m, in := g.sessions[s]; in && !m.sure {
		g.unsure--
	}
	delete(g.sessions, s)
	if len(g.sessions) > 0 {
		return
	}
	g.waiting, g.bytes = nil, 0
	delete(i.groups, g.group)
	delete(i.conns, g.conn)
	release := i.claim(g, epoch)
	release.Release = true
	if !i.put(release, nil) {
		i.shed("interest")
	}
}

// byConn finds the group that a conn number stands for.
func (i *interests) byConn(conn uint64) *interest {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.conns[conn]
}

// hold calls fn with the groups of a session, which joins no other meanwhile, and whether pushes that may be for it wait.
func (i *interests) hold(s *session, fn func(groups []im.UID, waiting bool)) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	groups, waiting := make([]im.UID, 0, len(i.of[s])), false
	for _, g := range i.of[s] {
		groups = append(groups, g.group)
		waiting = waiting || g.waits()
	}
	fn(groups, waiting)
}

// claims lists the route of every group.
func (i *interests) claims(epoch uint64) []im.Claim {
	i.mu.RLock()
	defer i.mu.RUnlock()
	all := make([]im.Claim, 0, len(i.groups))
	for _, g := range i.groups {
		all = append(all, i.claim(g, epoch))
	}
	return all
}

// interested does what a call's result, or a push, says of a session's groups.
func (g *Gateway) interested(s *session, join []im.UID, all bool) {
	if all {
		s.learnGroups()
		g.telling.Store(true)
	}
	if len(join) > 0 && !g.interests.join(s, join, g.epochNow()) {
		s.passOnGroups(join)
	}
}

func (g *Gateway) epochNow() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch
}
