// Command edge measures a gateway's sockets beside Centrifugo's and beside a bare write() loop, in one run.
//
//	clients (this process) ──ws──▶ gateway (a process: the production builder) ──rpc──▶ a router that grants claims (this process)
//	clients (this process) ──ws──▶ centrifugo (a process)
//	readers (this process) ──tcp─▶ floor (a process: write() to each socket in turn)
//
// Each figure is a line: name value unit (peer's value). CPU is that of the measured process alone, from /proc. Clients and
// servers share the machine, so that ratios of one run count, not figures.
//
// "edge failover" kills the processes of a gateway and of a region of a real cluster under its clients instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/antipode-im/antipode/internal/await"
)

type options struct {
	idle, members, storm int
	rest                 time.Duration
	rounds               int
	centrifugo           string
}

func main() {
	var err error
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(os.Args) > 1 && os.Args[1] == "gateway":
		err = serveGateway(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "failover":
		err = failover(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "floor":
		err = serveFloor(ctx)
	default:
		var o options
		flag.IntVar(&o.idle, "idle", 9000, "idle connections")
		flag.IntVar(&o.members, "members", 1000, "connections that each push goes to")
		flag.IntVar(&o.storm, "storm", 5000, "logins of the connect storm")
		flag.IntVar(&o.rounds, "rounds", 2000, "pushes of each fan-out")
		flag.DurationVar(&o.rest, "rest", 45*time.Second, "how long idle connections rest before memory is read")
		flag.StringVar(&o.centrifugo, "centrifugo", "", "program to measure beside; empty: none")
		flag.Parse()
		err = run(ctx, o)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "edge:", err)
		os.Exit(1)
	}
}

// figures of one server; -1 was not measured.
type figures struct {
	idleBytes, fanRate, fanCPU, halfP50, halfP99, loginCPU, loginP99 float64
}

func none() figures { return figures{-1, -1, -1, -1, -1, -1, -1} }

func figure(name string, ours, theirs float64, unit string) {
	if theirs < 0 {
		fmt.Printf("%s %.4g %s\n", name, ours, unit)
		return
	}
	fmt.Printf("%s %.4g %s (%.4g)\n", name, ours, unit, theirs)
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "edge")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	floor, err := measureFloor(ctx, o)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	w, err := newWorld(ctx, filepath.Join(dir, "gateway"))
	if err != nil {
		return err
	}
	ours, err := measure(ctx, o, w)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	bare50, bare99, err := floorAt(ctx, o, ours.fanRate/2)
	if err != nil {
		return fmt.Errorf("floor at half of the gateway's rate: %w", err)
	}
	over, err := idleTLS(ctx, o, w)
	if err != nil {
		return fmt.Errorf("gateway, TLS: %w", err)
	}
	theirs := none()
	if o.centrifugo != "" {
		other := &peer{program: o.centrifugo, dir: dir}
		if theirs, err = measure(ctx, o, other); err != nil {
			return fmt.Errorf("centrifugo: %w", err)
		}
		if err := equalRates(ctx, o, w, other, min(ours.fanRate, theirs.fanRate)/2); err != nil {
			return fmt.Errorf("equal rates: %w", err)
		}
	}
	figure("idle-connection", ours.idleBytes, theirs.idleBytes, "bytes")
	figure("idle-connection-tls", over, -1, "bytes")
	figure("fan-out", ours.fanRate, theirs.fanRate, "deliveries/s")
	figure("fan-out-cpu", ours.fanCPU, theirs.fanCPU, "cpu-s/million")
	figure("fan-out-cpu-of-write-loop", floor, -1, "cpu-s/million")
	ratio := -1.0
	if theirs.fanCPU > 0 {
		ratio = theirs.fanCPU / floor
	}
	figure("fan-out-cpu-over-write-loop", ours.fanCPU/floor, ratio, "ratio")
	figure("fan-out-half-rate-p50", ours.halfP50, theirs.halfP50, "ms")
	figure("fan-out-half-rate-p99", ours.halfP99, theirs.halfP99, "ms")
	figure("fan-out-half-rate-p50-of-write-loop", bare50, -1, "ms")
	figure("fan-out-half-rate-p99-of-write-loop", bare99, -1, "ms")
	perCore := func(cpu float64) float64 {
		if cpu <= 0 {
			return -1
		}
		return 1 / cpu
	}
	figure("connect-storm", perCore(ours.loginCPU), perCore(theirs.loginCPU), "logins/cpu-s")
	figure("connect-storm-p99", ours.loginP99, theirs.loginP99, "ms")
	return nil
}

// server is what is measured.
type server interface {
	start(ctx context.Context) (*process, error)
	addr() string
	dial(ctx context.Context) (net.Conn, error)
	dialect() dialect
	// push sends one message, stamped with the time, to all.
	push(ctx context.Context) error
}

func measure(ctx context.Context, o options, s server) (figures, error) {
	f := none()
	for _, part := range []func(context.Context, options, server, *process, *figures) error{idle, fanOut, storm} {
		p, err := s.start(ctx)
		if err != nil {
			return f, err
		}
		err = part(ctx, o, s, p, &f)
		p.stop()
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// idle reads the memory of connections that are logged in, subscribed and heartbeating.
func idle(ctx context.Context, o options, s server, p *process, f *figures) error {
	before := p.rss()
	c, err := connect(ctx, s, o.idle, 64, nil)
	if err != nil {
		return err
	}
	defer c.close()
	select {
	case <-time.After(o.rest):
	case <-ctx.Done():
		return ctx.Err()
	}
	f.idleBytes = (p.rss() - before) / float64(o.idle)
	if n := c.broken.Load(); n > 0 {
		return fmt.Errorf("%d idle connections broke", n)
	}
	return nil
}

// idleTLS reads it where TLS ends in the gateway.
func idleTLS(ctx context.Context, o options, w *world) (float64, error) {
	f := none()
	w.encrypted = true
	defer func() { w.encrypted = false }()
	p, err := w.start(ctx)
	if err != nil {
		return f.idleBytes, err
	}
	defer p.stop()
	err = idle(ctx, o, w, p, &f)
	return f.idleBytes, err
}

// fanOut finds the highest rate with a few pushes under way, then the latency at half of it.
func fanOut(ctx context.Context, o options, s server, p *process, f *figures) error {
	c, err := connect(ctx, s, o.members, 64, nil)
	if err != nil {
		return err
	}
	defer c.close()
	total := int64(o.rounds) * int64(o.members)
	cpu, began := p.cpu(), time.Now()
	for i := range o.rounds {
		if err := c.await(ctx, int64(i-8)*int64(o.members)); err != nil { // eight are under way
			return err
		}
		if err := s.push(ctx); err != nil {
			return err
		}
	}
	if err := c.await(ctx, total); err != nil {
		return err
	}
	took := time.Since(began)
	f.fanRate = float64(total) / took.Seconds()
	f.fanCPU = (p.cpu() - cpu) / float64(total) * 1e6
	c.forget()
	every := 2 * took / time.Duration(o.rounds)
	if err := pushEvery(ctx, o, s, every); err != nil {
		return err
	}
	if err := c.await(ctx, total+int64(o.rounds/2)*int64(o.members)); err != nil {
		return err
	}
	f.halfP50, f.halfP99 = c.latency(.5), c.latency(.99)
	return nil
}

// pushEvery pushes half of the rounds, each when it is due, however the ones before went.
func pushEvery(ctx context.Context, o options, s server, every time.Duration) error {
	next := time.Now()
	for range o.rounds / 2 {
		if err := s.push(ctx); err != nil {
			return err
		}
		next = next.Add(every)
		if err := await.Moment(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// fanOutAt finds the latencies at a rate of deliveries a second.
func fanOutAt(ctx context.Context, o options, s server, rate float64) (p50, p99 float64, err error) {
	p, err := s.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	c, err := connect(ctx, s, o.members, 64, nil)
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	if err := pushEvery(ctx, o, s, time.Duration(float64(o.members)/rate*float64(time.Second))); err != nil {
		return 0, 0, err
	}
	if err := c.await(ctx, int64(o.rounds/2)*int64(o.members)); err != nil {
		return 0, 0, err
	}
	return c.latency(.5), c.latency(.99), nil
}

// equalRates has both servers push as much in a second: half of what the slower one bears.
func equalRates(ctx context.Context, o options, w *world, other *peer, rate float64) error {
	p50, p99, err := fanOutAt(ctx, o, w, rate)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	their50, their99, err := fanOutAt(ctx, o, other, rate)
	if err != nil {
		return fmt.Errorf("centrifugo: %w", err)
	}
	figure("fan-out-equal-rate", rate, rate, "deliveries/s")
	figure("fan-out-equal-rate-p50", p50, their50, "ms")
	figure("fan-out-equal-rate-p99", p99, their99, "ms")
	return nil
}

// storm logs clients in as fast as they get in.
func storm(ctx context.Context, o options, s server, p *process, f *figures) error {
	var took durations
	cpu := p.cpu()
	c, err := connect(ctx, s, o.storm, 128, &took)
	if err != nil {
		return err
	}
	defer c.close()
	f.loginCPU = (p.cpu() - cpu) / float64(o.storm)
	f.loginP99 = took.at(.99)
	return nil
}
