package gateway

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/gateway/wheel"
	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// session is a login that survives its sockets. It is the target of pushes: it numbers them and keeps them until the
// client acknowledged them, so a conn only remembers up to which number it was sent, and a resume is a conn that begins
// at another number.
//
// Lock order: session.mu before conn.mu and hub.mu, and before that of the wheel.
type session struct {
	id       sessionID
	secret   resumeSecret
	uid      im.UID
	device   im.DeviceID
	platform im.Platform

	maxUnacked, maxBytes int
	slow                 time.Duration
	clock                *wheel.Wheel // nil in tests of the session alone
	due                  func(*session)

	mu       sync.Mutex
	conn     *conn       // nil without a socket
	joining  bool        // a socket's login is under way: the route is claimed as that socket's
	connNo   uint64      // of the route: the current conn's, or the last one's
	previous uint64      // the conn before: pushes that were under way at a resume name it
	login    uint64      // of the route; grows with every socket
	deadline time.Time   // without a socket: when the session ends
	timer    wheel.Timer // set while there is a deadline
	ended    im.Code     // why it ended, after which nothing reaches it; empty while it lives
	gone     *departure  // another gateway took it: that is why it ended, and what comes for it is passed on
	seen     im.Stamp    // the highest stamp acked
	missed   bool        // pushes may have been lost on the way here: the next socket is told that it is behind
	informed bool        // a service said which large groups it is in
	looked   uint8       // how often that was looked for

	number  uint64         // of the last push; the first is 1
	sentMax uint64         // the highest that was put on any socket
	unacked []numberedPush // the last pushes, without a gap up to number, oldest first
	bytes   int            // of unacked
	behind  uint64         // pushes up to it were dropped unacknowledged; 0: none
	slowAt  time.Time      // when the first of them was dropped with a socket there; zero: none
	passing []passing      // ephemeral pushes for the socket that there is, oldest first
	resends int            // sockets in a row that were sent again what had been sent, and acknowledged nothing
}

type numberedPush struct {
	number uint64
	push   *wire.PreparedPush
	at     time.Time // when it came; zero unless its trace is sampled
}

func newSession(cfg *Config, random func(bytes int) string, uid im.UID, h *wire.Hello, connNo uint64) *session {
	return &session{
		id: idOf(random(16)), secret: secretOf(random(32)),
		uid: uid, device: im.DeviceID(h.Device), platform: im.Platform(h.Platform),
		maxUnacked: cfg.MaxUnacked, maxBytes: cfg.MaxUnackedBytes, slow: cfg.SlowTimeout,
		connNo: connNo, login: h.Login, joining: true,
	}
}

func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails (Go 1.24)
	return hex.EncodeToString(b)
}

// sessionID names a session, and resumeSecret proves it: bytes here, in hexadecimal on the wire.
type (
	sessionID    = im.SessionID
	resumeSecret [32]byte
)

func (r resumeSecret) String() string { return hex.EncodeToString(r[:]) }

func idOf(text string) (id sessionID) {
	id, _ = sessionIDOf(text)
	return id
}

// sessionIDOf reads the id from what welcome told: the id in hexadecimal, and where the session was, as in
// 0123456789abcdef0123456789abcdef@eu/gateway-1.
func sessionIDOf(text string) (id sessionID, ok bool) {
	text, _, _ = strings.Cut(text, "@")
	if len(text) != hex.EncodedLen(len(id)) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(text))
	return id, err == nil
}

func secretOf(text string) (r resumeSecret) {
	if len(text) == hex.EncodedLen(len(r)) {
		_, _ = hex.Decode(r[:], []byte(text)) // what is no secret equals none
	}
	return r
}

// knows compares a resume secret in constant time.
func (s *session) knows(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(s.secret.String()), []byte(secret)) == 1
}

// claim is the session's route as it is now. The caller holds mu or knows that nobody else does.
func (s *session) claim() im.Claim {
	return im.Claim{
		UID: s.uid, Device: s.device, Platform: s.platform, Conn: s.connNo, Login: s.login, Offline: s.conn == nil && !s.joining,
	}
}

// overflow is what a push found when the session's buffer was full.
type overflow int

const (
	fits    overflow = iota
	dropped          // bodies were dropped; the client is told that it is behind
	tooSlow          // and has been so for too long
	astray           // another gateway has the session, and cannot be told
)

// push numbers a push and keeps it. When the buffer is full, every body in it is dropped: the client is told to pull,
// which is cheaper for all than catching up push by push.
func (s *session) push(p *wire.PreparedPush, now time.Time, sampled bool) overflow {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil {
		return s.passOn(lateOf(p))
	}
	if s.ended != "" {
		return fits
	}
	if s.replace(p) {
		return fits
	}
	s.number++
	n := numberedPush{number: s.number, push: p}
	if sampled {
		n.at = now
	}
	s.unacked = append(s.unacked, n)
	s.bytes += p.Size()
	result := fits
	if len(s.unacked) > s.maxUnacked || s.bytes > s.maxBytes {
		result = dropped
		s.fallBehind()
		switch {
		case s.conn == nil:
		case s.slowAt.IsZero():
			s.slowAt = now
		case now.Sub(s.slowAt) > s.slow:
			result = tooSlow
		}
	}
	if s.conn != nil {
		s.conn.poke()
	}
	return result
}

// fallBehind drops what is kept: the client is told to pull. The caller holds mu.
func (s *session) fallBehind() { s.unacked, s.bytes, s.behind, s.passing = nil, 0, s.number, nil }

// miss has the client told that it is behind: something may have been lost on the way here.
func (s *session) miss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone != nil:
		s.gone.out.Break() // what was passed on over two gateways
	case s.conn == nil:
		s.missed = true
	default: // as if one more push had been made and dropped
		s.number++
		s.fallBehind()
		s.conn.poke()
	}
}

// isHere is false for a session that another gateway took.
func (s *session) isHere() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone == nil
}

// maxResends is to how many sockets in a row pushes are sent again that none of them acknowledged. A client that cannot get
// them through pulls: a page at a time, and what it still needs.
const maxResends = 3

// replaceDepth is how far back a receipt looks for one that it replaces.
const replaceDepth = 32

// replace puts a receipt in the place of an earlier one that no socket was given yet. The caller holds mu.
func (s *session) replace(p *wire.PreparedPush) bool {
	if s.sentMax >= s.number || len(s.unacked) == 0 || !p.IsReceipt() {
		return false
	}
	for i := len(s.unacked) - 1; i >= max(0, len(s.unacked)-replaceDepth) && s.unacked[i].number > s.sentMax; i-- {
		if p.Replaces(s.unacked[i].push) {
			s.bytes += p.Size() - s.unacked[i].push.Size()
			s.unacked[i].push = p
			return true
		}
	}
	return false
}

// ack forgets pushes up to number. The caller holds mu.
func (s *session) ack(number uint64) {
	i := 0
	for i < len(s.unacked) && s.unacked[i].number <= number {
		s.bytes -= s.unacked[i].push.Size()
		i++
	}
	switch {
	case i == len(s.unacked):
		s.unacked = nil
	case i > 0:
		clear(s.unacked[:i])
		s.unacked = s.unacked[i:]
	}
	if i > 0 {
		s.resends = 0
	}
	if number >= s.behind {
		s.behind, s.slowAt = 0, time.Time{}
	}
}

// acked takes a push_ack of a conn; false if it names a push that the conn was not sent.
func (s *session) acked(c *conn, number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number > c.sent {
		return false
	}
	if s.conn == c {
		s.ack(number)
	}
	return true
}

// next returns what a conn has to be sent: the number up to which it is behind (0: it is not, or was told), and some
// pushes. It notes them as sent.
func (s *session) next(c *conn, into []numberedPush) (behind uint64, pushes []numberedPush) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return 0, into
	}
	if s.behind > c.sent {
		behind, c.sent = s.behind, s.behind
	}
	if len(s.unacked) == 0 || c.sent >= s.number {
		return behind, into
	}
	first := s.unacked[0].number
	i := 0
	if c.sent >= first {
		i = int(c.sent - first + 1)
	}
	for ; i < len(s.unacked) && len(into) < cap(into); i++ {
		into = append(into, s.unacked[i])
		c.sent = s.unacked[i].number
	}
	s.sentMax = max(s.sentMax, c.sent)
	return behind, into
}

// errTakenFrom ends a login whose session a resume took meanwhile. The client is on another socket by then, so this one
// goes without a word, as takeOver ends one whose login was done: told that it was replaced, a client would stop.
var errTakenFrom = errors.New("a resume took the session during the login")

// attach gives the session a socket whose login was claimed, and the number of the last push that its client has, and
// queues the greeting: a client that has read it misses no push from then on, an ephemeral one neither. It fails if another
// socket took the session meanwhile, or if it ended.
func (s *session) attach(c *conn, login, has uint64, greeting []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone != nil:
		return errTakenFrom
	case s.ended != "":
		return im.Errorf(s.ended, "the session ended during the login")
	case s.login != login:
		return errTakenFrom
	}
	s.conn, s.joining, s.slowAt = c, false, time.Time{}
	s.endBy(time.Time{})
	s.ack(has)
	if len(s.unacked) > 0 && s.unacked[0].number <= s.sentMax {
		s.resends++
	}
	if s.resends > maxResends {
		s.fallBehind()
		s.resends = 0
	}
	if s.missed { // as if one more push had been made and dropped: the client pulls
		s.number++
		s.fallBehind()
		s.missed = false
	}
	c.sent = has
	if greeting != nil {
		c.enqueue(ws.Opcode(c.codec.MessageType()), greeting)
	}
	c.session.Store(s) // after the greeting: see flush
	c.poke()
	return nil
}

// detach takes the socket away and starts the resume window. False: the session has another socket, or ended.
func (s *session) detach(c *conn, deadline time.Time) (offline im.Claim, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != "" || s.conn != c {
		return im.Claim{}, false
	}
	s.conn, s.passing = nil, nil
	s.endBy(deadline)
	return s.claim(), true
}

// takeOver prepares a resume: the session leaves its old socket, if it still has one, and goes by the new conn and login.
// Until the claim is answered it has no socket. The caller has checked the secret.
func (s *session) takeOver(connNo, login, has uint64, deadline time.Time) (old *conn, unmapped uint64, claim im.Claim, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != "":
		return nil, 0, im.Claim{}, errNoSession
	case has > s.number:
		return nil, 0, im.Claim{}, errNoSession
	case login <= s.login:
		return nil, 0, im.Claim{}, s.tie()
	}
	old, unmapped = s.conn, s.previous
	s.conn, s.joining, s.passing = nil, true, nil
	s.endBy(deadline)
	s.previous, s.connNo, s.login = s.connNo, connNo, login
	return old, unmapped, s.claim(), nil
}

// endBy sets when the session ends without a socket; zero: not. The caller holds mu.
func (s *session) endBy(deadline time.Time) {
	had := !s.deadline.IsZero()
	s.deadline = deadline
	switch {
	case s.clock == nil:
	case !deadline.IsZero():
		s.clock.Set(&s.timer, deadline, func(*wheel.Timer) { s.due(s) })
	case had:
		s.clock.Stop(&s.timer)
	}
}

// tie says that a login number is not above the session's. The caller holds mu.
func (s *session) tie() error {
	return im.Errorf(im.CodeLoginTie, "the login number must be above %d, the last one of this session", s.login)
}

// giveUp takes back a login whose claim failed. What routers push to may be neither of the conns that the session still
// goes by, so its next socket is told that it is behind. False: another login came, or the session ended.
func (s *session) giveUp(login uint64) (offline im.Claim, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != "" || s.login != login {
		return im.Claim{}, false
	}
	s.joining, s.missed = false, true
	return s.claim(), true
}

// errNoSession is answered by a new session: whatever the reason, the client pulls what it missed.
var errNoSession = im.Errorf(im.CodeSessionExpired, "there is no such session any more")

// raise notes a stamp that was acked.
func (s *session) raise(stamp im.Stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = max(s.seen, stamp)
}

func (s *session) seenStamp() im.Stamp {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}
