package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/console"
)

// failoverRegions are as many as a region's clients can divide among.
var failoverRegions = []string{"ap", "eu", "us"}

// failover kills a gateway, then a region, under clients that follow the protocol, and tells how soon they are elsewhere:
//
//	clients (this process) ──http──▶ ipconfs, ──ws──▶ gateways ──▶ routers ──▶ route logs: whole regions (this process, as antipode dev)
//
// The logins are connect storms with real claims: the first of all clients at once, then of those who lost their gateway.
func failover(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("failover", flag.ContinueOnError)
	clients := flags.Int("clients", 2000, "clients, divided among three regions of two gateways")
	rate := flags.Float64("rate", 250, "first logins a second; 0: all at once, which is a connect storm with claims")
	wait := flags.Duration("wait", 3*time.Minute, "how long clients may take to come back before it is given up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "failover")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := app.NewDev(app.DevConfig{Regions: failoverRegions, Delay: 20 * time.Millisecond, Listen: "127.0.0.1:0", Data: dir})
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Start(ctx); err != nil {
		return err
	}
	c := &refugees{at: make([]string, *clients), since: make([]time.Time, *clients)}
	defer c.close()
	began := time.Now()
	if err := c.connect(ctx, d, *rate); err != nil {
		return err
	}
	all := make([]int, *clients)
	for i := range all {
		all[i] = i
	}
	if err := c.await(ctx, all, "", *wait); err != nil {
		return fmt.Errorf("the first logins: %w", err)
	}
	if *rate == 0 {
		figure("connect-storm-claimed", float64(*clients)/time.Since(began).Seconds(), -1, "logins/s")
	}
	c.shares()

	victim := console.Target{Region: "eu", Gateway: "gateway-1"}
	lost := c.on("eu/gateway-1")
	killed := time.Now()
	if err := d.Kill(ctx, victim); err != nil {
		return err
	}
	if err := c.await(ctx, lost, "eu/gateway-1", *wait); err != nil {
		return fmt.Errorf("gateway killed: %w", err)
	}
	c.tell("gateway-killed", lost, killed)
	if err := d.Restart(ctx, victim); err != nil {
		return err
	}
	select {
	case <-time.After(15 * time.Second): // ipconf hands it out again, and newcomers would find it empty
	case <-ctx.Done():
		return ctx.Err()
	}

	lost = slices.Concat(c.on("eu/gateway-1"), c.on("eu/gateway-2"))
	killed = time.Now()
	if err := d.Kill(ctx, console.Target{Region: "eu"}); err != nil {
		return err
	}
	if err := c.await(ctx, lost, "eu/", *wait); err != nil {
		return fmt.Errorf("region killed: %w", err)
	}
	c.tell("region-killed", lost, killed)
	left := 2 * (len(failoverRegions) - 1)
	figure("region-killed-largest-share", 100*float64(c.shares())*float64(left)/float64(*clients), -1, "% of the fair one")
	return nil
}

// shares prints how many clients each gateway has, and returns the most.
func (c *refugees) shares() (most int) {
	for _, region := range failoverRegions {
		for n := 1; n <= 2; n++ {
			at := fmt.Sprintf("%s/gateway-%d", region, n)
			held := len(c.on(at))
			fmt.Fprintf(os.Stderr, "%s: %d\n", at, held)
			most = max(most, held)
		}
	}
	return most
}

// refugees are the clients and where they are.
type refugees struct {
	clients []*client.Client
	running sync.WaitGroup

	mu    sync.Mutex
	at    []string    // region/gateway; empty: nowhere
	since []time.Time // connected there
}

func (c *refugees) connect(ctx context.Context, d *app.Dev, rate float64) error {
	began := time.Now()
	for i := range c.at {
		if rate > 0 {
			select {
			case <-time.After(time.Until(began.Add(time.Duration(float64(i) / rate * float64(time.Second))))):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		uid := im.UID(fmt.Sprint("user-", i))
		own := im.Region(failoverRegions[i%len(failoverRegions)])
		ipconfs := []string{d.IPConf(own)}
		for _, r := range failoverRegions {
			if im.Region(r) != own {
				ipconfs = append(ipconfs, d.IPConf(im.Region(r)))
			}
		}
		k, err := client.New(client.Config{
			IPConf: ipconfs, UID: uid, Region: own, Platform: "android",
			Token: func(context.Context, bool) (string, error) {
				token, _, err := d.Token(uid)
				return token, err
			},
		})
		if err != nil {
			return err
		}
		c.clients = append(c.clients, k)
		c.running.Go(func() { c.follow(i, k) })
	}
	return ctx.Err()
}

func (c *refugees) follow(i int, k *client.Client) {
	for e := range k.Events() {
		c.mu.Lock()
		switch e := e.(type) {
		case client.Connected:
			c.at[i], c.since[i] = string(e.Region)+"/"+e.Gateway, time.Now()
		case client.Disconnected:
			c.at[i] = ""
		}
		c.mu.Unlock()
	}
}

// on lists the clients at a gateway.
func (c *refugees) on(gateway string) (list []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, at := range c.at {
		if at == gateway {
			list = append(list, i)
		}
	}
	return list
}

// await waits until clients are connected where the name does not begin with from.
func (c *refugees) await(ctx context.Context, list []int, from string, within time.Duration) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); ; {
		missing := 0
		c.mu.Lock()
		for _, i := range list {
			if c.at[i] == "" || from != "" && len(c.at[i]) >= len(from) && c.at[i][:len(from)] == from {
				missing++
			}
		}
		c.mu.Unlock()
		if missing == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d clients are not connected elsewhere after %v", missing, len(list), within)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell prints when half, 95 % and all of the clients had come back.
func (c *refugees) tell(name string, list []int, killed time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var took []time.Duration
	for _, i := range list {
		took = append(took, c.since[i].Sub(killed))
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	fmt.Fprintf(os.Stderr, "%s: %d clients\n", name, len(took))
	figure(name+"-resumed-p50", took[len(took)/2].Seconds(), -1, "s")
	figure(name+"-resumed-p95", took[(len(took)*95-1)/100].Seconds(), -1, "s")
	figure(name+"-resumed-all", took[len(took)-1].Seconds(), -1, "s")
	figure(name+"-logins", float64(len(took))/took[len(took)-1].Seconds(), -1, "logins/s")
}

func (c *refugees) close() {
	var closing sync.WaitGroup
	for _, k := range c.clients {
		closing.Go(func() { k.Close() })
	}
	closing.Wait()
	c.running.Wait()
}
