package poll

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxReads is how often one socket is read before the others have their turn.
const maxReads = 4

// Epoll is the Linux Poller.
type Epoll struct {
	loops   []*loop
	next    atomic.Uint32
	streams Goroutines // connections that are no sockets
	records sync.Pool  // of *[record]byte: what TLS decrypts goes through these
	running sync.WaitGroup
	closed  atomic.Bool
}

func newPoller(loops int) (Poller, error) { return NewEpoll(loops) }

// NewEpoll starts a number of loops.
func NewEpoll(loops int) (*Epoll, error) {
	p := &Epoll{}
	for range max(loops, 1) {
		l, err := newLoop(p)
		if err != nil {
			p.Close()
			return nil, err
		}
		p.loops = append(p.loops, l)
		p.running.Go(l.run)
	}
	return p, nil
}

// Add implements Poller. A TCP connection's descriptor is taken away from Go's runtime, which would wait for it too. So is that
// below a TLS connection over a Bottom.
func (p *Epoll) Add(c net.Conn, h Handler, start func(Socket)) error {
	if tcp, ok := c.(*net.TCPConn); ok {
		fd, err := takeFD(tcp)
		if err != nil {
			return err
		}
		return p.AddFD(fd, h, start)
	}
	if t, bottom := bottomOf(c); bottom != nil {
		if tcp, ok := bottom.Conn.(*net.TCPConn); ok {
			return p.addSecured(t, bottom, tcp, h, start)
		}
	}
	return p.streams.Add(c, h, start)
}

func (p *Epoll) addSecured(t *tls.Conn, bottom *Bottom, tcp *net.TCPConn, h Handler, start func(Socket)) error {
	fd, err := takeFD(tcp)
	if err != nil {
		return err
	}
	s := &secured{tls: t, handler: h, records: &p.records}
	raw := p.socket(fd, s)
	s.raw, bottom.over = raw, s
	start(s)
	if err := raw.loop.add(raw); err != nil {
		return err
	}
	raw.loop.post(posted{s: raw, begin: true})
	return nil
}

// takeFD duplicates the descriptor of a connection and closes the connection's own: the duplicate keeps the socket.
func takeFD(tcp *net.TCPConn) (int, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("poll: %w", err)
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, fmt.Errorf("poll: %w", err)
	}
	if dupErr != nil {
		return -1, fmt.Errorf("poll: a descriptor of its own for a socket: %w", dupErr)
	}
	tcp.Close()
	return fd, nil
}

// AddFD takes over a connected, non-blocking socket's descriptor.
func (p *Epoll) AddFD(fd int, h Handler, start func(Socket)) error {
	s := p.socket(fd, h)
	start(s)
	return s.loop.add(s)
}

// socket gives a descriptor to one of the loops.
func (p *Epoll) socket(fd int, h Handler) *epollSocket {
	return &epollSocket{fd: fd, handler: h, loop: p.loops[int(p.next.Add(1))%len(p.loops)]}
}

// Freeze stops all events until Thaw: when it returns, no Handler is being called, except those of connections that are no sockets.
func (p *Epoll) Freeze() {
	for _, l := range p.loops {
		l.frozen.Lock()
	}
}

// Thaw undoes Freeze; what came meanwhile is told now.
func (p *Epoll) Thaw() {
	for _, l := range p.loops {
		l.frozen.Unlock()
	}
}

// Close implements Poller.
func (p *Epoll) Close() {
	if p.closed.Swap(true) {
		return
	}
	for _, l := range p.loops {
		l.wake()
	}
	p.running.Wait()
	p.streams.Close()
	for _, l := range p.loops {
		l.close()
	}
}

// loop is one epoll instance and its goroutine. The goroutine does not sit in epoll_wait, which would take a thread: the
// epoll descriptor is itself waited for by Go's runtime.
type loop struct {
	poller *Epoll
	file   *os.File
	raw    syscall.RawConn
	event  int // an eventfd: something was posted

	frozen sync.Mutex // held while handlers are called

	mu     sync.Mutex
	slots  []*epollSocket // an event names its socket by place and generation
	free   []int32
	gens   []int32
	posted []posted

	events [128]unix.EpollEvent
	ready  []ready
	buf    []byte
}

type posted struct {
	s             *epollSocket
	resume, begin bool // neither: read on
}

type ready struct {
	s     *epollSocket
	flags uint32
}

func newLoop(p *Epoll) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("poll: epoll: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil { // so that the runtime waits for it
		unix.Close(ep)
		return nil, fmt.Errorf("poll: epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("poll: eventfd: %w", err)
	}
	l := &loop{poller: p, file: os.NewFile(uintptr(ep), "epoll"), event: event, buf: make([]byte, readSize)}
	l.raw, err = l.file.SyscallConn()
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: -1})
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("poll: epoll: %w", err)
	}
	return l, nil
}

func (l *loop) close() {
	l.file.Close()
	unix.Close(l.event)
}

// wake makes the loop look at what was posted.
func (l *loop) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(l.event, one[:]) // full: it is awake
}

func (l *loop) post(p posted) {
	l.mu.Lock()
	l.posted = append(l.posted, p)
	first := len(l.posted) == 1
	l.mu.Unlock()
	if first {
		l.wake()
	}
}

const events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// add registers a socket.
func (l *loop) add(s *epollSocket) error {
	l.mu.Lock()
	var at int32
	if n := len(l.free); n > 0 {
		at, l.free = l.free[n-1], l.free[:n-1]
		l.slots[at] = s
	} else {
		at = int32(len(l.slots))
		l.slots, l.gens = append(l.slots, s), append(l.gens, 0)
	}
	s.slot = at
	e := unix.EpollEvent{Events: events, Fd: at, Pad: l.gens[at]}
	l.mu.Unlock()
	err := s.use(func(fd int) error {
		return l.control(func(ep int) error { return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &e) })
	})
	if err != nil {
		s.Close()
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

func (l *loop) control(f func(ep int) error) error {
	var err error
	if outer := l.raw.Control(func(ep uintptr) { err = f(int(ep)) }); outer != nil {
		return outer
	}
	return err
}

// remove forgets a closed socket.
func (l *loop) remove(s *epollSocket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(s.slot) < len(l.slots) && l.slots[s.slot] == s {
		l.slots[s.slot] = nil
		l.gens[s.slot]++
		l.free = append(l.free, s.slot)
	}
}

func (l *loop) run() {
	for !l.poller.closed.Load() {
		n := 0
		var err error
		outer := l.raw.Read(func(ep uintptr) bool {
			n, err = unix.EpollWait(int(ep), l.events[:], 0)
			return n != 0 || err != nil && err != unix.EINTR || l.poller.closed.Load()
		})
		if outer != nil || err != nil && err != unix.EINTR {
			return // closed: nothing else ends a wait
		}
		l.frozen.Lock()
		for more := true; more; {
			more = l.turn(n)
			n = 0
		}
		l.frozen.Unlock()
	}
}

// turn deals with n events and with what was posted; true: more was posted meanwhile.
func (l *loop) turn(n int) bool {
	l.mu.Lock()
	for i := range n {
		e := &l.events[i]
		if e.Fd < 0 {
			var b [8]byte
			_, _ = unix.Read(l.event, b[:])
			continue
		}
		if s := l.slots[e.Fd]; s != nil && l.gens[e.Fd] == e.Pad {
			l.ready = append(l.ready, ready{s, e.Events})
		}
	}
	again := l.posted
	l.posted = nil
	l.mu.Unlock()
	for i, r := range l.ready {
		l.ready[i].s = nil
		if r.flags&unix.EPOLLOUT != 0 && r.s.short.CompareAndSwap(true, false) {
			r.s.handler.Writable()
		}
		if r.flags&^unix.EPOLLOUT != 0 {
			l.read(r.s, r.flags&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
		}
	}
	l.ready = l.ready[:0]
	for _, p := range again {
		if p.resume {
			p.s.paused = false
		}
		if p.resume || p.begin && !p.s.paused {
			p.s.handler.Data(nil)
		}
		l.read(p.s, p.s.hung)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.posted) > 0
}

// read reads what there is. Edges come once, so it reads until there is no more, or has itself called again.
func (l *loop) read(s *epollSocket, hung bool) {
	s.hung = s.hung || hung
	for range maxReads {
		if s.paused {
			return // Resume reads
		}
		n, err := s.read(l.buf)
		switch {
		case err == unix.EAGAIN || err == ErrClosed:
			return
		case err == unix.EINTR:
			continue
		case err != nil:
			s.handler.Closed(fmt.Errorf("read: %w", err))
			return
		case n == 0:
			s.handler.Closed(io.EOF)
			return
		}
		s.handler.Data(l.buf[:n])
		if n < len(l.buf) && !s.hung { // what comes now is another edge
			return
		}
	}
	l.mu.Lock()
	l.posted = append(l.posted, posted{s: s})
	l.mu.Unlock()
}

// epollSocket is one socket of a loop.
type epollSocket struct {
	handler Handler
	loop    *loop
	slot    int32
	paused  bool        // the loop's
	hung    bool        // the other end will send no more: the loop's
	short   atomic.Bool // a Write did not take everything

	mu sync.Mutex // over the descriptor: it is closed under nobody's call
	fd int        // -1: closed
}

func (s *epollSocket) use(f func(fd int) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return ErrClosed
	}
	return f(s.fd)
}

func (s *epollSocket) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return 0, ErrClosed
	}
	return syscall.Read(s.fd, b)
}

// Write implements Socket.
func (s *epollSocket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return 0, ErrClosed
	}
	total := 0
	for {
		n, err := syscall.Write(s.fd, b[total:])
		if n > 0 {
			total += n
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN || err == nil && total < len(b):
			// The flag first, then one more try: an edge between the two would find it unset.
			if s.short.Swap(true) {
				return total, nil
			}
		case err != nil:
			return total, fmt.Errorf("write: %w", err)
		default:
			s.short.Store(false)
			return total, nil
		}
	}
}

func (s *epollSocket) Pause()  { s.paused = true }
func (s *epollSocket) Resume() { s.loop.post(posted{s: s, resume: true}) }

// Close implements Socket.
func (s *epollSocket) Close() {
	s.mu.Lock()
	fd := s.fd
	s.fd = -1
	if fd >= 0 {
		// A duplicate in another process would keep the registration alive.
		_ = s.loop.control(func(ep int) error { return unix.EpollCtl(ep, unix.EPOLL_CTL_DEL, fd, nil) }) // it may not have got in
		unix.Close(fd)
	}
	s.mu.Unlock()
	if fd >= 0 {
		s.loop.remove(s)
	}
}

// FD is the socket's descriptor, for another process to take over while the poller is frozen.
func FD(s Socket) (int, bool) {
	e, ok := s.(*epollSocket)
	if !ok {
		return 0, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fd, e.fd >= 0
}
