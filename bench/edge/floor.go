package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/antipode-im/antipode/internal/await"
)

// messageBytes is the body of a push: 300 B, as in the goal.
const messageBytes = 300

// serveFloor is what no server can do better: write(2) to each socket in turn. It reads the number of sockets and rounds, and how many
// nanoseconds lie between the rounds, 0 for none. What it writes are frames that begin with the time.
func serveFloor(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	var n, rounds int
	var every time.Duration
	if _, err := fmt.Fscan(os.Stdin, &n, &rounds, &every); err != nil {
		return err
	}
	fds := make([]int, n)
	for i := range fds {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return fmt.Errorf("accepted a %T", c)
		}
		f, err := tcp.File()
		if err != nil {
			return err
		}
		fds[i] = int(f.Fd()) // blocking from here on
		c.Close()
		defer f.Close()
	}
	fmt.Println("ready")
	b := make([]byte, messageBytes+4)
	b[0], b[1] = 0x82, 126 // a server's frame
	binary.BigEndian.PutUint16(b[2:], messageBytes)
	for next := time.Now(); rounds > 0; rounds-- {
		binary.BigEndian.PutUint64(b[4:], uint64(time.Now().UnixNano()))
		for _, fd := range fds {
			if _, err := syscall.Write(fd, b); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next = next.Add(every)
		if every > 0 {
			if err := await.Moment(ctx, next); err != nil {
				return err
			}
		}
	}
	fmt.Println("written")
	<-ctx.Done()
	return nil
}

// bare is what clients of the floor say: nothing.
type bare struct{ dialect }

func (bare) message(b []byte, _ int64) ([]int64, []byte) {
	return []int64{int64(binary.BigEndian.Uint64(b))}, nil
}

// floorAt finds the latencies of the clients of a bare write() loop at a rate of deliveries a second: what the clients of
// this process, and the kernel, make of it by themselves.
func floorAt(ctx context.Context, o options, rate float64) (p50, p99 float64, err error) {
	p, addr, err := startFloor(ctx, o.members, o.rounds/2, time.Duration(float64(o.members)/rate*float64(time.Second)))
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	c := &crowd{done: make(chan struct{})}
	defer c.close()
	for range o.members {
		conn, err := dial(ctx, addr)
		if err != nil {
			return 0, 0, err
		}
		c.conns = append(c.conns, conn)
		c.readers.Go(func() { c.read(bare{}, conn, bufio.NewReaderSize(conn, 1024)) })
	}
	if err := c.await(ctx, int64(o.rounds/2)*int64(o.members)); err != nil {
		return 0, 0, err
	}
	return c.latency(.5), c.latency(.99), nil
}

// startFloor starts the write() loop, which begins once all its sockets are there.
func startFloor(ctx context.Context, members, rounds int, every time.Duration) (p *process, addr string, err error) {
	if p, err = spawn(ctx, nil, os.Args[0], "floor"); err != nil {
		return nil, "", err
	}
	if addr, err = p.line(); err == nil {
		_, err = fmt.Fprintln(p.in, members, rounds, int64(every))
	}
	if err != nil {
		p.stop()
		return nil, "", err
	}
	return p, addr, nil
}

// measureFloor returns the CPU seconds of a million writes.
func measureFloor(ctx context.Context, o options) (float64, error) {
	p, addr, err := startFloor(ctx, o.members, o.rounds, 0)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	var read atomic.Int64
	var readers sync.WaitGroup
	conns := make([]net.Conn, o.members)
	for i := range conns {
		if conns[i], err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr); err != nil {
			return 0, err
		}
		readers.Go(func() {
			b := make([]byte, 1024)
			for {
				n, err := conns[i].Read(b)
				if err != nil {
					return
				}
				read.Add(int64(n))
			}
		})
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
		readers.Wait()
	}()
	if _, err := p.line(); err != nil {
		return 0, err
	}
	before := p.cpu()
	if _, err := p.line(); err != nil {
		return 0, err
	}
	return (p.cpu() - before) / float64(o.members*o.rounds) * 1e6, nil
}
