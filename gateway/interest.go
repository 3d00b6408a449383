package gateway

import (
	"slices"
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
// Services say who is in: a call's result joins its caller to groups, or takes it out.
type interests struct {
	region  im.Region
	gateway string
	number  func() uint64       // the next conn number
	put     func(im.Claim) bool // queues a claim; called in the order of changes
	shed    func(string)        // counts what was left out

	mu     sync.RWMutex
	groups map[im.UID]*interest
	conns  map[uint64]*interest
	of     map[*session][]*interest
}

type interest struct {
	group    im.UID
	conn     uint64
	sessions map[*session]struct{}
}

func newInterests(region im.Region, gateway string, number func() uint64, put func(im.Claim) bool, shed func(string)) *interests {
	return &interests{
		region: region, gateway: gateway, number: number, put: put, shed: shed,
		groups: map[im.UID]*interest{}, conns: map[uint64]*interest{}, of: map[*session][]*interest{},
	}
}

// claim is the route of a group. The epoch is its login number: a later life of this gateway wins over an earlier one.
func (i *interests) claim(g *interest, epoch uint64) im.Claim {
	return im.Claim{
		UID: g.group, Device: im.DeviceID(string(i.region) + "/" + i.gateway), Conn: g.conn, Login: epoch,
	}
}

// announce queues the claim or release of a group, with the lock held: a claim must not come behind its release. One that is
// lost is claimed anew within the hour, or dies of age.
func (i *interests) announce(c im.Claim) {
	if !i.put(c) {
		i.shed("interest")
	}
}

// join adds a session to groups, and claims those that are new here. False: the session has ended.
func (i *interests) join(s *session, groups []im.UID, epoch uint64) bool {
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
		if g != nil {
			if _, in := g.sessions[s]; in {
				continue
			}
		}
		if len(i.of[s]) >= maxInterests {
			i.shed("groups")
			return true
		}
		if g == nil {
			g = &interest{group: name, conn: i.number(), sessions: map[*session]struct{}{}}
			i.groups[name], i.conns[g.conn] = g, g
			i.announce(i.claim(g, epoch))
		}
		g.sessions[s] = struct{}{}
		i.of[s] = append(i.of[s], g)
	}
	return true
}

// leave takes a session out of groups, and releases those that nobody here is in any more.
func (i *interests) leave(s *session, groups []im.UID, epoch uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.part(s, func(g *interest) bool { return slices.Contains(groups, g.group) }, epoch)
}

// drop takes a session that ended out of all.
func (i *interests) drop(s *session, epoch uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.part(s, func(*interest) bool { return true }, epoch)
}

func (i *interests) part(s *session, from func(*interest) bool, epoch uint64) {
	left := slices.DeleteFunc(i.of[s], func(g *interest) bool {
		if !from(g) {
			return false
		}
		if delete(g.sessions, s); len(g.sessions) == 0 {
			delete(i.groups, g.group)
			delete(i.conns, g.conn)
			release := i.claim(g, epoch)
			release.Release = true
			i.announce(release)
		}
		return true
	})
	if i.of[s] = left; len(left) == 0 {
		delete(i.of, s)
	}
}

// each calls fn with every session that a group's conn number stands for.
func (i *interests) each(conn uint64, fn func(*session)) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if g := i.conns[conn]; g != nil {
		for s := range g.sessions {
			fn(s)
		}
	}
}

// hold calls fn with the groups of a session, which joins no other meanwhile.
func (i *interests) hold(s *session, fn func(groups []im.UID)) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	groups := make([]im.UID, 0, len(i.of[s]))
	for _, g := range i.of[s] {
		groups = append(groups, g.group)
	}
	fn(groups)
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

// interested does what a call's result says of its caller's groups.
func (g *Gateway) interested(s *session, r *im.CallResult) {
	if len(r.Join) == 0 && len(r.Leave) == 0 {
		return
	}
	epoch := g.epochNow()
	g.interests.leave(s, r.Leave, epoch)
	if !g.interests.join(s, r.Join, epoch) {
		s.passOnGroups(r)
	}
}

func (g *Gateway) epochNow() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch
}
