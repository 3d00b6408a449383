package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/antipode-im/antipode/gateway/handoff"
	"github.com/antipode-im/antipode/gateway/poll"
	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
)

// The messages of a hot restart. Fields may be added: gob leaves unknown ones out.
type (
	handoffHello struct {
		Version int
		Gateway string
	}
	handoffOffer struct {
		Refused string // why there is nothing to take over
		Epoch   uint64
		ConnNo  uint64 // the last one given
	}
	handoffStep struct{ Begin, Taken, Yours bool }

	movedBatch struct {
		Last  bool // nothing comes after it
		Items []movedItem
	}
	// movedItem is a session, with its conn if it has one, or a conn that has not said hello.
	movedItem struct {
		Session *movedSession
		Conn    *movedConn
	}
	movedSession struct {
		ID        [16]byte
		Secret    [32]byte
		UID       im.UID
		Device    im.DeviceID
		Platform  im.Platform
		ConnNo    uint64
		Previous  uint64
		Login     uint64
		Left      time.Duration // until the session ends, without a socket
		Seen      im.Stamp
		Missed    bool
		Number    uint64
		SentMax   uint64
		Behind    uint64
		Resends   int
		Slow      time.Duration // for how long it has been; 0: it is not
		Pushes    []movedPush
		Interests []movedGroup // not Groups: processes that know those give everybody who is in one what comes for it
		Informed  bool
	}
	// movedGroup is a group that the session is in, with the number that stands for all of its sessions here.
	movedGroup struct {
		Name      im.UID
		Conn      uint64
		Unclaimed bool // routers may not know of it
	}
	movedPush struct {
		Number                 uint64
		Service, Method, Trace string
		Body                   []byte
	}
	// movedConn's times are relative to the gateway's clock as it was written down.
	movedConn struct {
		IP              netip.Addr
		Subprotocol     string
		Open            bool
		Opened, Heard   int64
		Expires         int64
		HasExpires      bool
		Sent            uint64
		Parser          ws.State
		Rest, Tail, Out []byte
	}
)

// perBatch is how many items go in one message: their files must fit.
const perBatch = 200

// predecessor is the process to take over from.
type predecessor struct {
	conn     *handoff.Conn
	offer    handoffOffer
	listener net.Listener
}

// findPredecessor asks the process that serves this gateway now, if there is one.
func findPredecessor(cfg *Config) (*predecessor, error) {
	c, err := handoff.Dial(cfg.Handoff, 2*time.Second)
	switch {
	case errors.Is(err, handoff.ErrNobody):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("gateway: take over by %s: %w", cfg.Handoff, err)
	}
	p := &predecessor{conn: c}
	if err := p.ask(cfg); err != nil {
		c.Close()
		return nil, fmt.Errorf("gateway: take over by %s: %w", cfg.Handoff, err)
	}
	return p, nil
}

func (p *predecessor) ask(cfg *Config) error {
	if err := p.conn.SetDeadline(time.Now().Add(handoffTime)); err != nil {
		return err
	}
	if err := p.conn.Send(handoffHello{handoffVersion, cfg.Gateway.ID}); err != nil {
		return err
	}
	files, err := p.conn.Receive(&p.offer)
	if err != nil {
		return err
	}
	defer func() {
		for _, fd := range files {
			unix.Close(fd)
		}
	}()
	if p.offer.Refused != "" {
		return fmt.Errorf("refused: %s", p.offer.Refused)
	}
	if len(files) != 1 {
		return fmt.Errorf("%d listeners came, want 1", len(files))
	}
	f := os.NewFile(uintptr(files[0]), "listener")
	files = nil
	defer f.Close()
	p.listener, err = net.FileListener(f) // a duplicate
	return err
}

// takeOverAll moves everything here. It returns when this process owns it, or with an error when the other one still does.
func (g *Gateway) takeOverAll(ctx context.Context) error {
	p := g.predecessor
	fail := func(err error) error {
		p.conn.Close()
		return fmt.Errorf("gateway: take over: %w", err)
	}
	poller, ok := g.poller.(*poll.Epoll)
	if !ok {
		return fail(errors.New("sockets cannot be moved to a gateway in goroutine mode"))
	}
	g.successor.moving.Lock() // what routers send waits for the sessions that it is for
	poller.Freeze()
	g.frozen.Store(true)
	thaw := func() {
		g.frozen.Store(false)
		poller.Thaw()
		g.successor.moving.Unlock()
	}
	select { // routers know this process: what they send from now on comes here
	case <-g.reached:
	case <-time.After(handoffTime / 6):
		g.log.Warn("taking over without having reached a router")
	case <-ctx.Done():
		thaw()
		return fail(context.Cause(ctx))
	}
	conns, err := g.receiveAll(p, poller)
	if err != nil {
		for _, c := range conns {
			c.socket.Close() // the other process has it still
		}
		thaw()
		return fail(err)
	}
	thaw()
	for _, c := range conns {
		c.arm()
		c.poke()
		c.socket.Resume() // what had come behind hello, if anything
	}
	g.interests.announceRest(g.epochNow())
	go g.hearPredecessor(p)
	return nil
}

// receiveAll makes the sessions and conns that come.
func (g *Gateway) receiveAll(p *predecessor, poller *poll.Epoll) ([]*conn, error) {
	if err := p.conn.Send(handoffStep{Begin: true}); err != nil {
		return nil, err
	}
	began := time.Now()
	var conns []*conn
	for last := false; !last; {
		var batch movedBatch
		files, err := p.conn.Receive(&batch)
		if err != nil {
			return conns, err
		}
		for i := range batch.Items {
			item := &batch.Items[i]
			var s *session
			if item.Session != nil {
				s = g.restoreSession(item.Session, item.Conn != nil)
			}
			if item.Conn == nil {
				continue
			}
			if len(files) == 0 {
				return conns, errors.New("a conn came without its socket")
			}
			c, err := g.restoreConn(item.Conn, s, files[0], poller)
			files = files[1:]
			if err != nil {
				g.log.Warn("a socket could not be taken over", "err", err)
				continue
			}
			conns = append(conns, c)
		}
		last = batch.Last
	}
	if err := p.conn.Send(handoffStep{Taken: true}); err != nil {
		return conns, err
	}
	var step handoffStep
	if _, err := p.conn.Receive(&step); err != nil {
		return conns, err
	}
	if !step.Yours {
		return conns, errors.New("the other process keeps them")
	}
	g.log.Info("took over from the process before", "conns", len(conns), "sessions", g.hub.size(), "took", time.Since(began).String())
	return conns, nil
}

// hearPredecessor takes what routers had sent to the other process.
func (g *Gateway) hearPredecessor(p *predecessor) {
	defer p.conn.Close()
	if p.conn.SetDeadline(time.Now().Add(handoffTime)) != nil {
		return
	}
	for {
		var m passedOn
		if _, err := p.conn.Receive(&m); err != nil {
			return // it has ended
		}
		h := handler{g, p.offer.Epoch}
		if m.Kick != nil {
			h.Kick(*m.Kick)
		}
		h.Push(m.Pushes)
	}
}

// restoreSession makes a session. One whose socket follows is joining until then: a router that attaches meanwhile must not
// hear that its device is offline.
func (g *Gateway) restoreSession(m *movedSession, follows bool) *session {
	s := &session{
		id: m.ID, secret: m.Secret, uid: m.UID, device: m.Device, platform: m.Platform,
		maxUnacked: g.cfg.MaxUnacked, maxBytes: g.cfg.MaxUnackedBytes, slow: g.cfg.SlowTimeout,
		connNo: m.ConnNo, previous: m.Previous, login: m.Login, seen: m.Seen, missed: m.Missed, informed: m.Informed,
		number: m.Number, sentMax: m.SentMax, behind: m.Behind, resends: m.Resends, joining: follows,
	}
	g.windUp(s)
	now := time.Now()
	if m.Left != 0 {
		s.endBy(now.Add(m.Left))
	}
	if m.Slow != 0 {
		s.slowAt = now.Add(-m.Slow)
	}
	for _, p := range m.Pushes {
		s.keep(p.Number, &im.Late{Service: p.Service, Method: p.Method, Body: p.Body, Trace: p.Trace})
	}
	g.hub.add(s)
	if m.Previous != 0 {
		g.hub.mapConn(m.Previous, s)
	}
	for _, group := range m.Interests {
		g.interests.restore(s, group)
	}
	g.metrics.sessions(1)
	return s
}

// rejoin gives a session that was restored its socket, which is not served yet; nil: that could not be taken over.
func (s *session) rejoin(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.joining = c, false
	if c != nil && s.missed { // no hello follows: it is told now
		s.number++
		s.fallBehind()
		s.missed = false
	}
}

// restore adds a session to a group that routers know by a number already, or will.
func (i *interests) restore(s *session, m movedGroup) {
	i.mu.Lock()
	defer i.mu.Unlock()
	g := i.groups[m.Name]
	if g == nil {
		g = i.begin(m.Name, m.Conn)
		g.claimed = !m.Unclaimed
	}
	i.enter(s, g, member{})
}

// announceRest claims the restored groups that the process before may have ended without an answer for. It is for when their
// sockets are this process's: an answer has sessions told that they missed something.
func (i *interests) announceRest(epoch uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, g := range i.groups {
		g.mu.Lock()
		claimed := g.claimed
		g.mu.Unlock()
		if !claimed {
			i.announce(g, epoch)
		}
	}
}

// moved lists the groups of a session, and tells whether pushes that may be for it wait.
func (i *interests) moved(s *session) (groups []movedGroup, waiting bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, g := range i.of[s] {
		g.mu.Lock()
		groups = append(groups, movedGroup{g.group, g.conn, !g.claimed})
		waiting = waiting || len(g.waiting) > 0
		g.mu.Unlock()
	}
	return groups, waiting
}

func (g *Gateway) restoreConn(m *movedConn, s *session, fd int, poller *poll.Epoll) (*conn, error) {
	codec := g.codecs[m.Subprotocol]
	if codec == nil {
		unix.Close(fd)
		if s != nil {
			s.rejoin(nil)
		}
		return nil, fmt.Errorf("subprotocol %q is not known here", m.Subprotocol)
	}
	c := g.newConn(codec, m.IP)
	now := c.opened
	c.opened = now + m.Opened
	c.heard.Store(now + m.Heard)
	if m.HasExpires {
		c.expires = max(now+m.Expires, 1)
	}
	c.parser = ws.Restore(m.Parser, &g.buffers)
	lend := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		return append(g.buffers.Get(len(b)), b...)
	}
	c.rest, c.tail, c.out = lend(m.Rest), lend(m.Tail), lend(m.Out)
	if len(c.tail) > 0 {
		c.blocked.Store(max(now, 1))
	}
	if m.Open {
		c.state.Store(connOpen)
	}
	if s != nil {
		c.sent = m.Sent
		s.rejoin(c)
		c.session.Store(s)
	}
	err := poller.AddFD(fd, c, func(socket poll.Socket) {
		c.socket = socket
		g.conns.count(m.IP)
		g.conns.add(c)
		g.metrics.conns(1)
	})
	if err != nil {
		c.drop()
		return nil, err
	}
	return c, nil
}

// offer waits for the next process of this gateway.
type offer struct {
	listener *handoff.Listener
	ended    chan struct{} // closed when no process takes over any more

	mu      sync.Mutex
	with    *handoff.Conn // the process that is taking over, or has
	settled bool
}

// offerHandoff lets the next process of this gateway take over.
func (g *Gateway) offerHandoff() (*offer, error) {
	l, err := handoff.Listen(g.cfg.Handoff)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	o := &offer{listener: l, ended: make(chan struct{})}
	go func() {
		defer close(o.ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !o.begin(c) {
				c.Close()
				return
			}
			if err := g.giveOver(c); err != nil {
				g.log.Warn("another process did not take over", "err", err)
				c.Close()
				continue
			}
			return
		}
	}()
	return o, nil
}

// begin bounds what a process may take to take over; false: none may any more.
func (o *offer) begin(c *handoff.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.settled {
		return false
	}
	_ = c.SetDeadline(time.Now().Add(handoffTime)) // it fails where everything else will
	o.with = c
	return true
}

// settle ends the offer. A process that is just taking over is given a time to do so: were clients sent away meanwhile, some
// would be moved, and some not. Afterwards it has, or everything is still here.
func (o *offer) settle(within time.Duration) {
	o.listener.Close()
	o.mu.Lock()
	o.settled = true
	if o.with != nil {
		select {
		case <-o.ended: // it has long taken over
		default:
			_ = o.with.SetDeadline(time.Now().Add(within)) // it has closed, else
		}
	}
	o.mu.Unlock()
	<-o.ended
}

// close lets go of it. Nobody takes over from then on.
func (o *offer) close() {
	o.settle(0)
	if o.with != nil {
		o.with.Close()
	}
}

// giveOver moves everything to another process. After an error this one goes on as before.
func (g *Gateway) giveOver(c *handoff.Conn) error {
	var hello handoffHello
	if _, err := c.Receive(&hello); err != nil {
		return err
	}
	poller, epoll := g.poller.(*poll.Epoll)
	tcp, plain := g.listener.Listener.(*net.TCPListener)
	refused := ""
	switch {
	case hello.Version != handoffVersion:
		refused = fmt.Sprintf("it speaks version %d of the handoff, this process %d", hello.Version, handoffVersion)
	case hello.Gateway != g.cfg.Gateway.ID:
		refused = fmt.Sprintf("it is gateway %s, this one %s", hello.Gateway, g.cfg.Gateway.ID)
	case g.draining.Load():
		refused = "this process is draining"
	case !epoll || !plain:
		refused = "this process cannot move its sockets"
	}
	if refused != "" {
		_ = c.Send(handoffOffer{Refused: refused}) // it is told why, if it still listens
		return errors.New(refused)
	}
	if err := sendListener(c, handoffOffer{Epoch: g.Gateway().Epoch, ConnNo: g.connNo.Load()}, tcp); err != nil {
		return err
	}
	var step handoffStep
	if _, err := c.Receive(&step); err != nil {
		return err
	}
	if !step.Begin {
		return errors.New("it does not begin")
	}
	return g.moveAll(c, poller)
}

// sendListener makes an offer. An os.File's Fd would have the listener block, for this process as well: an accept under way then is not
// ended by its closing.
func sendListener(c *handoff.Conn, offer handoffOffer, l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(fd uintptr) { err = c.Send(offer, int(fd)) })
	if outer != nil {
		return outer
	}
	return err
}

// moveAll stops this process where it stands and writes down what it has.
func (g *Gateway) moveAll(c *handoff.Conn, poller *poll.Epoll) error {
	began := time.Now()
	g.listener.shut.Lock()
	defer g.listener.shut.Unlock()
	await(began.Add(handoffCalls), time.Millisecond, func() bool { return g.upgrading.Load() == 0 && g.joining.Load() == 0 })
	poller.Freeze()
	defer poller.Thaw()
	await(time.Now().Add(handoffCalls), time.Millisecond, func() bool { return g.callsUnder.Load() == 0 && g.joining.Load() == 0 })
	g.frozen.Store(true)
	defer g.frozen.Store(false)
	g.successor.moving.Lock()
	defer g.successor.moving.Unlock()
	for _, f := range g.flushers {
		f.frozen.Lock()
		defer f.frozen.Unlock()
	}

	sessions, conns, err := g.sendAll(c)
	if err != nil {
		return err
	}
	var step handoffStep
	if _, err := c.Receive(&step); err != nil {
		return err
	}
	if !step.Taken {
		return errors.New("it did not take what was moved")
	}
	if err := c.Send(handoffStep{Yours: true}); err != nil {
		return err
	}
	// From here on all of it is the other's.
	g.breakOff()
	if err := g.listener.Close(); err != nil {
		g.log.Warn("the listener did not close", "err", err)
	}
	close(g.successor.over)
	g.successor.send = func(m *passedOn) {
		if err := c.Send(m); err != nil {
			g.log.Warn("a push that came late could not be passed on: clients pull it", "err", err)
		}
	}
	for _, s := range sessions {
		s.mu.Lock()
		s.ended, s.conn = im.CodeDraining, nil
		s.mu.Unlock()
	}
	for _, c := range conns {
		c.over.Store(true)
		c.gone.Store(true)
		c.socket.Close()
		c.mu.Lock()
		c.clock.Stop(&c.timer)
		c.mu.Unlock()
		g.removeConn(c)
	}
	left := g.conns.all()
	for _, c := range left { // TLS, or being closed anyway
		c.close(im.Errorf(im.CodeUnavailable, "this gateway restarts: reconnect"))
	}
	g.log.Info("another process took over", "conns", len(conns), "sessions", len(sessions), "left", len(left), "took", time.Since(began).String())
	return nil
}

// sendAll sends sessions and conns; nothing changes them meanwhile. It returns those that it sent.
func (g *Gateway) sendAll(to *handoff.Conn) (sessions []*session, conns []*conn, err error) {
	var batch movedBatch
	var files []int
	flush := func(last bool) error {
		batch.Last = last
		err := to.Send(batch, files...)
		batch.Items, files = batch.Items[:0], files[:0]
		return err
	}
	add := func(item movedItem, fd int) error {
		batch.Items = append(batch.Items, item)
		if item.Conn != nil {
			files = append(files, fd)
		}
		if len(batch.Items) >= perBatch {
			return flush(false)
		}
		return nil
	}
	for _, s := range g.hub.all() {
		groups, waiting := g.interests.moved(s) // its lock comes before the session's
		s.mu.Lock()
		skip := s.ended != "" || s.joining
		if skip {
			s.mu.Unlock()
			continue
		}
		item, fd := movedItem{Session: s.moved(g.cfg.ResumeWindow)}, -1
		item.Session.Interests, item.Session.Missed = groups, item.Session.Missed || waiting
		if c := s.conn; c != nil {
			if fd = c.movable(); fd >= 0 {
				item.Conn = c.moved()
				conns = append(conns, c)
			}
		}
		s.mu.Unlock()
		sessions = append(sessions, s)
		if err := add(item, fd); err != nil {
			return nil, nil, err
		}
	}
	for _, c := range g.conns.all() {
		if c.session.Load() != nil || c.state.Load() != connNew {
			continue
		}
		if fd := c.movable(); fd >= 0 {
			conns = append(conns, c)
			if err := add(movedItem{Conn: c.moved()}, fd); err != nil {
				return nil, nil, err
			}
		}
	}
	return sessions, conns, flush(true)
}

// moved writes a session down. The caller holds mu.
func (s *session) moved(window time.Duration) *movedSession {
	m := &movedSession{
		ID: s.id, Secret: s.secret, UID: s.uid, Device: s.device, Platform: s.platform,
		ConnNo: s.connNo, Previous: s.previous, Login: s.login, Seen: s.seen, Missed: s.missed, Informed: s.informed,
		Number: s.number, SentMax: s.sentMax, Behind: s.behind, Resends: s.resends,
	}
	switch {
	case !s.deadline.IsZero():
		m.Left = time.Until(s.deadline)
	case s.conn == nil || s.conn.movable() < 0:
		m.Left = window
	}
	if !s.slowAt.IsZero() {
		m.Slow = max(time.Since(s.slowAt), 1)
	}
	for _, p := range s.unacked {
		moved := movedPush{Number: p.number}
		moved.Service, moved.Method, moved.Body, moved.Trace = p.push.Parts()
		m.Pushes = append(m.Pushes, moved)
	}
	return m
}

// movable is the conn's descriptor, or -1 if it cannot be moved.
func (c *conn) movable() int {
	if c.over.Load() || c.state.Load() == connJoining {
		return -1
	}
	fd, ok := poll.FD(c.socket)
	if !ok {
		return -1
	}
	return fd
}

// moved writes a conn down. Loop and flusher are frozen.
func (c *conn) moved() *movedConn {
	now := c.g.elapsed()
	c.mu.Lock()
	defer c.mu.Unlock()
	return &movedConn{
		IP: c.ip, Subprotocol: c.codec.Subprotocol(), Open: c.state.Load() == connOpen,
		Opened: c.opened - now, Heard: c.heard.Load() - now, Expires: c.expires - now, HasExpires: c.expires > 0,
		Sent: c.sent, Parser: c.parser.State(&c.g.buffers), Rest: c.rest, Tail: c.tail, Out: c.out,
	}
}
