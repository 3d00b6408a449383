package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/await"
)

// refugees are clients, and where they are.
type refugees struct {
	clients []*client.Client
	running sync.WaitGroup

	mu    sync.Mutex
	at    []string    // region/gateway; empty: nowhere
	since []time.Time // connected there
}

func newRefugees(n int) *refugees {
	return &refugees{at: make([]string, n), since: make([]time.Time, n)}
}

// connect has as many begin in a second; at a rate of 0 all at once.
func (c *refugees) connect(ctx context.Context, world *app.Cluster, rate float64) error {
	began := time.Now()
	for i := range c.at {
		if rate > 0 {
			if err := await.Moment(ctx, began.Add(time.Duration(float64(i)/rate*float64(time.Second)))); err != nil {
				return err
			}
		}
		uid := im.UID(fmt.Sprint("user-", i))
		own := failoverRegions[i%len(failoverRegions)]
		ipconfs := []string{world.IPConf(own)}
		for _, r := range failoverRegions {
			if r != own {
				ipconfs = append(ipconfs, world.IPConf(r))
			}
		}
		k, err := client.New(client.Config{
			IPConf: ipconfs, UID: uid, Region: own, Platform: "android",
			Token: func(context.Context, bool) (string, error) {
				token, _, err := world.Token(uid)
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

func (c *refugees) everybody() []int {
	all := make([]int, len(c.at))
	for i := range all {
		all[i] = i
	}
	return all
}

// on lists the clients at gateways.
func (c *refugees) on(gateways ...string) (list []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, at := range c.at {
		if slices.Contains(gateways, at) {
			list = append(list, i)
		}
	}
	return list
}

// await waits until clients are connected, and not at the gateway or in the region that is given.
func (c *refugees) await(ctx context.Context, list []int, but string, within time.Duration) error {
	return await.Within(ctx, within, 20*time.Millisecond, func() (bool, string) {
		missing := 0
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, i := range list {
			if region, _, _ := strings.Cut(c.at[i], "/"); c.at[i] == "" || c.at[i] == but || region == but {
				missing++
			}
		}
		return missing == 0, fmt.Sprintf("%d of %d clients are not connected elsewhere", missing, len(list))
	})
}

// share is how many clients a gateway has.
type share struct {
	gateway string
	clients int
}

type shares []share

func (s shares) most() (n int) {
	for _, g := range s {
		n = max(n, g.clients)
	}
	return n
}

func (s shares) String() string {
	var parts []string
	for _, g := range s {
		parts = append(parts, fmt.Sprintf("%s %d", g.gateway, g.clients))
	}
	return strings.Join(parts, ", ")
}

// shares counts the clients of each gateway of the regions.
func (c *refugees) shares(regions []im.Region) (list shares) {
	for _, r := range regions {
		for n := 1; n <= failoverGateways; n++ {
			at := fmt.Sprintf("%s/gateway-%d", r, n)
			list = append(list, share{at, len(c.on(at))})
		}
	}
	return list
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
