package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Neighbours are the other gateways of the own region.
type Neighbours interface {
	// Take asks a gateway for a session. When it gives it up, arrive is called with it before h hears anything of it, and then
	// Take returns settle, to be called once the session's new route is claimed. elsewhere names the gateway that took it
	// before. It returns when ctx ends.
	Take(ctx context.Context, holder string, ask im.SessionAsk, arrive func(*im.Session), h NeighbourHandler) (
		settle func(), elsewhere string, err error)
}

// NeighbourHandler hears what follows sessions that were taken. It never blocks for long. It is an alias, so that whoever
// implements Neighbours need not import this package.
type NeighbourHandler = interface {
	Late(id im.SessionID, late im.Late)
	Missed(ids []im.SessionID)
}

// maxHops is how many gateways are asked for a session that has moved on since its client was last told where it is.
const maxHops = 3

// take gets the session of a hello from the gateway that holds it, as one whose login is under way here. errNoSession: none
// gave it up in time, and the client pulls.
func (g *Gateway) take(connNo uint64, uid im.UID, h *wire.Hello) (s *session, claim im.Claim, settle func(), err error) {
	id, ok := sessionIDOf(h.Resume.Session)
	if !ok || g.deps.Neighbours == nil {
		return nil, claim, nil, errNoSession
	}
	holder := g.holder(h.Resume.Session)
	if gone := g.hub.byID(id); gone != nil && gone.is(h.Resume.Secret, uid, im.DeviceID(h.Device), im.Platform(h.Platform)) {
		holder = gone.wentTo()
	}
	ask := im.SessionAsk{
		ID: id, Secret: h.Resume.Secret, UID: uid, Device: im.DeviceID(h.Device), Platform: im.Platform(h.Platform),
		Login: h.Login, Push: h.Resume.Push, Gateway: g.cfg.Gateway.ID,
	}
	ctx, cancel := context.WithTimeout(g.base, g.cfg.MoveTimeout)
	defer cancel()
	for range maxHops {
		switch holder {
		case "":
			return nil, claim, nil, errNoSession
		case g.cfg.Gateway.ID: // it came here meanwhile, or is no more
			s, claim, err = g.takeOver(connNo, uid, h)
			return s, claim, func() {}, err
		}
		settle, elsewhere, err := g.deps.Neighbours.Take(ctx, holder, ask, func(m *im.Session) { s, claim = g.adopt(connNo, &ask, m) }, neighbours{g})
		switch {
		case im.CodeOf(err) == im.CodeLoginTie:
			return nil, claim, nil, err
		case err != nil:
			g.log.Debug("a session was not given up", "holder", holder, "err", err)
			return nil, claim, nil, errNoSession
		case s != nil:
			return s, claim, settle, nil
		}
		holder = elsewhere
	}
	return nil, claim, nil, errNoSession
}

// holder is the gateway of this region that a session was at, as its client was told; empty: none.
func (g *Gateway) holder(session string) string {
	_, at, _ := strings.Cut(session, "@")
	region, id, _ := strings.Cut(at, "/")
	if region != string(g.cfg.Region) {
		return ""
	}
	return id
}

// at is what clients are told of a session: its id, and where it is.
func (g *Gateway) at(s *session) string {
	return s.id.String() + "@" + string(g.cfg.Region) + "/" + g.cfg.Gateway.ID
}

// wentTo is the gateway that took the session; empty: none did.
func (s *session) wentTo() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		return ""
	}
	return s.gone.to
}

// adopt makes a session of one that another gateway gave up.
func (g *Gateway) adopt(connNo uint64, ask *im.SessionAsk, m *im.Session) (*session, im.Claim) {
	s := &session{
		id: ask.ID, secret: secretOf(ask.Secret), uid: ask.UID, device: ask.Device, platform: ask.Platform,
		maxUnacked: g.cfg.MaxUnacked, maxBytes: g.cfg.MaxUnackedBytes, slow: g.cfg.SlowTimeout,
		connNo: connNo, login: ask.Login, joining: true, seen: m.Seen, missed: m.Missed, informed: m.All,
		number: m.Number, sentMax: m.SentMax, behind: m.Behind, resends: m.Resends,
	}
	g.windUp(s)
	for i := range m.Pushes {
		s.keep(m.Pushes[i].Number, &m.Pushes[i].Late)
	}
	s.endBy(time.Now().Add(g.cfg.ResumeWindow))
	claim := s.claim()
	g.hub.add(s)
	g.metrics.sessions(1)
	g.interests.joinAs(s, m.Groups, member{moved: true}, g.epochNow())
	return s, claim
}

// keep adds a push that was numbered elsewhere.
func (s *session) keep(number uint64, p *im.Late) {
	prepared := wire.PreparePush(p.Service, p.Method, p.Body, p.Trace)
	s.unacked = append(s.unacked, numberedPush{number: number, push: prepared})
	s.bytes += prepared.Size()
}

// neighbours hears of the sessions that were taken.
type neighbours struct{ g *Gateway }

// Late takes what had come for a session where it was before.
func (n neighbours) Late(id im.SessionID, late im.Late) {
	s := n.g.hub.byID(id)
	if s == nil { // it has ended
		return
	}
	if passed := n.g.successor.begin(); passed != nil {
		passed(func(m *passedOn) {
			m.Pushes = []im.Push{{
				Conns: []uint64{s.connNo}, Service: late.Service, Method: late.Method, Body: late.Body, Trace: late.Trace, Join: late.Join,
			}}
		})
		return
	}
	defer n.g.successor.end()
	if late.Method != "" {
		n.g.pushTo(s, wire.PreparePush(late.Service, late.Method, late.Body, late.Trace), time.Now(), sampled(late.Trace))
	}
	n.g.interested(s, late.Join, false)
}

// Missed hears that some of it may have been lost.
func (n neighbours) Missed(ids []im.SessionID) {
	for _, id := range ids {
		if s := n.g.hub.byID(id); s != nil {
			s.miss()
		}
	}
}
