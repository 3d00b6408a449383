package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// messageBytes is the body of a push: 300 B, as in the goal.
const messageBytes = 300

// serveFloor is what no server can do better: write(2) to each socket in turn. It reads the number of sockets and rounds.
func serveFloor(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	var n, rounds int
	if _, err := fmt.Fscan(os.Stdin, &n, &rounds); err != nil {
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
	for range rounds {
		for _, fd := range fds {
			if _, err := syscall.Write(fd, b); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Println("written")
	<-ctx.Done()
	return nil
}

// measureFloor returns the CPU seconds of a million writes.
func measureFloor(ctx context.Context, o options) (float64, error) {
	p, err := spawn(ctx, nil, os.Args[0], "floor")
	if err != nil {
		return 0, err
	}
	defer p.stop()
	addr, err := p.line()
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintln(p.in, strconv.Itoa(o.members), o.rounds); err != nil {
		return 0, err
	}
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
