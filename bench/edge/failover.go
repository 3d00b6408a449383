package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/await"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/testenv"
)

// failoverRegions are as many as a region's clients can divide among.
var failoverRegions = []im.Region{"ap", "eu", "us"}

// failoverGateways is how many each region has.
const failoverGateways = 2

// standing is how long regions stand before anybody logs in. One that has just begun takes a part only of those whose own is dead, for
// ipconf.return_over, and regions do not begin at the same moment.
const standing = 65 * time.Second

// The victims: a gateway's clients find another in its region, a region's in the others.
const (
	victimRegion  = im.Region("eu")
	victimGateway = "eu/gateway-1"
)

// failover kills a gateway, then a region, under clients that follow the protocol, and tells how soon they are elsewhere:
//
//	clients (this process) ──http──▶ ipconfs, ──ws──▶ gateways ──▶ routers ──▶ route logs: antipode cluster, each part a process
//
// What is killed ends by SIGKILL: the gateway's process, and then each process of the region, its servers included.
func failover(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("failover", flag.ContinueOnError)
	clients := flags.Int("clients", 2000, "clients, divided among three regions of two gateways")
	rate := flags.Float64("rate", 250, "first logins a second; 0: all at once, which is a connect storm with claims")
	wait := flags.Duration("wait", 3*time.Minute, "how long clients may take to come back before it is given up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	env, err := testenv.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	world, err := startCluster(ctx, env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	fmt.Fprintln(os.Stderr, "waiting until the regions take all that is theirs")
	if err := await.Moment(ctx, time.Now().Add(standing)); err != nil {
		return err
	}

	c := newRefugees(*clients)
	defer c.close()
	began := time.Now()
	if err := c.connect(ctx, world, *rate); err != nil {
		return err
	}
	if err := c.await(ctx, c.everybody(), "", *wait); err != nil {
		return fmt.Errorf("the first logins: %w", err)
	}
	if *rate == 0 {
		figure("connect-storm-claimed", float64(*clients)/time.Since(began).Seconds(), -1, "logins/s")
	}
	fmt.Fprintln(os.Stderr, "logged in:", c.shares(failoverRegions))

	if err := c.kill(ctx, world, "gateway-killed", victimGateway, *wait); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "gateway killed:", c.shares(failoverRegions))
	if err := world.Start(ctx, victimGateway); err != nil {
		return err
	}
	if err := world.WaitReady(ctx); err != nil {
		return err
	}
	if err := await.Moment(ctx, time.Now().Add(15*time.Second)); err != nil { // newcomers would find it empty
		return err
	}

	if err := c.kill(ctx, world, "region-killed", string(victimRegion), *wait); err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(failoverRegions), func(r im.Region) bool { return r == victimRegion })
	shares := c.shares(left)
	fmt.Fprintln(os.Stderr, "region killed:", shares)
	figure("region-killed-largest-share", 100*float64(shares.most())*float64(len(shares))/float64(*clients), -1, "% of the fair one")
	return nil
}

// startCluster runs the regions, on addresses that nobody else uses.
func startCluster(ctx context.Context, env *testenv.Env) (*app.Cluster, error) {
	binary := filepath.Join(env.Dir("bin"), "antipode")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/antipode").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build ./cmd/antipode (run this in the repository's root): %w\n%s", err, out)
	}
	f := cluster.DefaultFile()
	f.Data, f.Listen, f.Traces = env.Dir("cluster"), env.Host(0)+":7400", ""
	f.LinkDelay = 20 * time.Millisecond
	f.Services.Gateway = failoverGateways
	f.Regions = nil
	for i, r := range failoverRegions {
		f.Regions = append(f.Regions, cluster.Region{Name: r, Host: env.Host(1 + i)})
	}
	return app.StartCluster(ctx, app.ClusterConfig{File: f, Binary: binary, Progress: func(line string) {
		fmt.Fprintln(os.Stderr, "cluster:", line)
	}})
}

// kill kills what a name of the cluster means, and tells how soon its clients were elsewhere.
func (c *refugees) kill(ctx context.Context, world *app.Cluster, name, target string, wait time.Duration) error {
	var pids, gateways []string
	for _, s := range world.Status() {
		if s.PID == 0 || s.Name != target && s.Region != target {
			continue
		}
		pids = append(pids, fmt.Sprint(s.PID))
		if s.Kind == app.ServiceGateway {
			gateways = append(gateways, s.Name)
		}
	}
	lost := c.on(gateways...)
	fmt.Fprintf(os.Stderr, "killing %s (kill -9 %s), where %d clients are\n", target, strings.Join(pids, " "), len(lost))
	killed := time.Now()
	if err := world.Kill(ctx, target); err != nil {
		return err
	}
	if err := c.await(ctx, lost, target, wait); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.tell(name, lost, killed)
	return nil
}
