package embedded

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Redis is an in-process Redis server. It keeps everything in memory: a region rebuilds its routes from the logs.
type Redis struct {
	server *miniredis.Miniredis
	addr   string
	done   chan struct{}
	tick   sync.WaitGroup
	stop   sync.Once
}

// StartRedis starts a server on host:port; port 0 takes any free one. A port that is taken is an error that names it.
func StartRedis(addr string) (*Redis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(addr); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			host, port, _ := net.SplitHostPort(addr)
			return nil, fmt.Errorf("redis: port %s on %s is taken: stop what uses it, or choose another", port, host)
		}
		return nil, fmt.Errorf("redis: listen on %s: %w", addr, err)
	}
	r := &Redis{server: server, addr: server.Addr(), done: make(chan struct{})}
	r.tick.Go(r.age)
	return r, nil
}

// age lets keys expire: miniredis's own clock stands still unless told.
func (r *Redis) age() {
	const step = 100 * time.Millisecond
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-ticker.C:
			r.server.FastForward(step)
		}
	}
}

// Addr is the host:port that the server listens on.
func (r *Redis) Addr() string { return r.addr }

// Close ends the server and its connections. What it held is gone.
func (r *Redis) Close() error {
	r.stop.Do(func() {
		close(r.done)
		r.tick.Wait()
		r.server.Close()
	})
	return nil
}

// Kill is Close: an in-process server without files has nothing to lose more of.
func (r *Redis) Kill() error { return r.Close() }
