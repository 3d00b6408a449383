package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/internal/await"
)

// dialect is what clients of a server say.
type dialect interface {
	path() string
	subprotocol() string
	opcode() byte
	login(i int) []byte
	ready(message []byte) bool
	// message counts the pushes in a message, tells when each was sent, and what to answer.
	message(b []byte, pushes int64) (sent []int64, answer []byte)
	heartbeat() []byte // sent each heartbeatEvery; nil: the server asks
}

const heartbeatEvery = 25 * time.Second

type durations struct {
	mu  sync.Mutex
	all []float64 // ms
}

func (d *durations) add(ms float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, ms)
}

func (d *durations) at(share float64) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) == 0 {
		return -1
	}
	slices.Sort(d.all)
	return d.all[min(len(d.all)-1, int(share*float64(len(d.all))))]
}

// crowd is many clients.
type crowd struct {
	conns    []net.Conn
	received atomic.Int64
	broken   atomic.Int64
	closing  atomic.Bool
	readers  sync.WaitGroup
	done     chan struct{}
	late     [200_000]atomic.Int64 // latencies by 10 µs
}

func (c *crowd) forget() {
	for i := range c.late {
		c.late[i].Store(0)
	}
}

func (c *crowd) latency(share float64) float64 {
	total := int64(0)
	for i := range c.late {
		total += c.late[i].Load()
	}
	seen := int64(0)
	for i := range c.late {
		if seen += c.late[i].Load(); float64(seen) >= share*float64(total) {
			return float64(i) / 100
		}
	}
	return -1
}

func (c *crowd) await(ctx context.Context, n int64) error {
	return await.Within(ctx, time.Minute, 200*time.Microsecond, func() (bool, string) {
		got := c.received.Load()
		return got >= n, fmt.Sprintf("%d of %d pushes arrived, %d connections broke", got, n, c.broken.Load())
	})
}

// connect logs n clients in, some at once; took gets how long each needed.
func connect(ctx context.Context, s server, n, atOnce int, took *durations) (*crowd, error) {
	c := &crowd{conns: make([]net.Conn, n), done: make(chan struct{})}
	var failed atomic.Pointer[error]
	var next atomic.Int64
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for ctx.Err() == nil && failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				began := time.Now()
				conn, r, err := login(ctx, s, i)
				if err != nil {
					err = fmt.Errorf("client %d: %w", i, err)
					failed.Store(&err)
					return
				}
				if took != nil {
					took.add(float64(time.Since(began).Microseconds()) / 1000)
				}
				c.conns[i] = conn
				c.readers.Go(func() { c.read(s.dialect(), conn, r) })
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		c.close()
		return nil, *err
	}
	if beat := s.dialect().heartbeat(); beat != nil {
		c.readers.Go(func() { c.beat(s.dialect().opcode(), beat) })
	}
	return c, ctx.Err()
}

// beat sends each client's heartbeat in its time, spread evenly.
func (c *crowd) beat(op byte, b []byte) {
	t := time.NewTicker(heartbeatEvery / 250)
	defer t.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		for i := turn % 250; i < len(c.conns); i += 250 {
			_, _ = c.conns[i].Write(frame(op, b)) // its reader counts what broke
		}
	}
}

func (c *crowd) close() {
	if c.closing.Swap(true) {
		return
	}
	close(c.done)
	for _, conn := range c.conns {
		if conn != nil {
			conn.Close()
		}
	}
	c.readers.Wait()
}

func (c *crowd) read(d dialect, conn net.Conn, r *bufio.Reader) {
	pushes := int64(0)
	var b []byte
	for {
		var err error
		if b, err = readFrame(r, b); err != nil {
			if !c.closing.Load() {
				c.broken.Add(1)
			}
			return
		}
		sent, answer := d.message(b, pushes)
		now := time.Now().UnixNano()
		for _, at := range sent {
			c.late[min(max(now-at, 0)/10_000, int64(len(c.late)-1))].Add(1)
		}
		pushes += int64(len(sent))
		c.received.Add(int64(len(sent)))
		if answer != nil {
			_, _ = conn.Write(frame(d.opcode(), answer))
		}
	}
}

// frame is a client's frame whose mask is zero.
func frame(op byte, b []byte) []byte {
	f := []byte{0x80 | op}
	if len(b) < 126 {
		f = append(f, 0x80|byte(len(b)))
	} else {
		f = append(f, 0x80|126, byte(len(b)>>8), byte(len(b)))
	}
	return append(append(f, 0, 0, 0, 0), b...)
}

func readFrame(r *bufio.Reader, into []byte) ([]byte, error) {
	var head [10]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return into, err
	}
	n := int(head[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(r, head[2:4]); err != nil {
			return into, err
		}
		n = int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return into, errors.New("a frame of more than 64 KiB")
	}
	if head[0]&0x0f == 8 {
		return into, errors.New("closed")
	}
	if cap(into) < n {
		into = make([]byte, n)
	}
	into = into[:n]
	_, err := io.ReadFull(r, into)
	return into, err
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 20 * time.Second}).DialContext(ctx, "tcp", addr)
}

func login(ctx context.Context, s server, i int) (net.Conn, *bufio.Reader, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	d := s.dialect()
	fail := func(err error) (net.Conn, *bufio.Reader, error) {
		conn.Close()
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return fail(err)
	}
	protocol := ""
	if p := d.subprotocol(); p != "" {
		protocol = "Sec-WebSocket-Protocol: " + p + "\r\n"
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", d.path(), protocol)
	r := bufio.NewReaderSize(conn, 1024)
	for first := true; ; first = false {
		line, err := r.ReadString('\n')
		if err != nil {
			return fail(err)
		}
		if first && !strings.Contains(line, " 101 ") {
			return fail(errors.New(strings.TrimSpace(line)))
		}
		if line == "\r\n" {
			break
		}
	}
	if _, err := conn.Write(frame(d.opcode(), d.login(i))); err != nil {
		return fail(err)
	}
	for {
		b, err := readFrame(r, nil)
		if err != nil {
			return fail(err)
		}
		if d.ready(b) {
			return conn, r, conn.SetDeadline(time.Time{})
		}
	}
}
