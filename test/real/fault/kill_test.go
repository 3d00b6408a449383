//go:build real && linux

package fault

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/demo"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/test/real/mirror"
)

func TestKillGateway(t *testing.T) {
	f := begin(t, "kill -9 of a gateway")
	victim := ""
	for gateway, users := range f.traffic.Gateways() {
		if im.Region(gateway[:2]) == eu && users > 0 {
			victim = gateway
		}
	}
	f.breaks(f.Kill, victim)
	f.flows(f.broke, 20*time.Second, nil, nil) // elsewhere, before it is back
	if seen := f.traffic.Seen(f.broke); seen.Lost == 0 {
		t.Error("nobody was on the gateway that died")
	}
	f.within(10*time.Second, 15*time.Second)
	f.heals(f.starts(victim))
	f.ends()
}

func TestKillRouter(t *testing.T) {
	f := begin(t, "kill -9 of a router of two")
	f.breaks(f.Kill, "eu/router-1")
	f.flows(f.broke, 20*time.Second, nil, nil)
	f.within(5*time.Second, 15*time.Second)
	f.heals(f.starts("eu/router-1"))
	f.ends()
}

func TestKillIMServer(t *testing.T) {
	f := begin(t, "kill -9 of an imserver of two")
	f.breaks(f.Kill, "eu/imserver-1")
	f.flows(f.broke, 20*time.Second, nil, nil)
	f.within(5*time.Second, 10*time.Second)
	f.heals(f.starts("eu/imserver-1"))
	f.ends()
}

func TestKillKafka(t *testing.T) {
	f := begin(t, "kill -9 of the only broker of a region")
	f.breaks(f.Kill, "eu/kafka")
	f.notices(30*time.Second, eu)
	f.flows(time.Now(), 30*time.Second, []im.Region{us}, []im.Region{us})
	f.heals(f.starts("eu/kafka"))
	f.ends()
}

func TestKillPostgres(t *testing.T) {
	f := begin(t, "kill -9 of PostgreSQL")
	f.breaks(f.Kill, "eu/postgres")
	f.lasts(2 * time.Second)
	f.accepts(time.Now(), 20*time.Second) // conversations in cache go on
	f.flows(time.Now(), 20*time.Second, nil, []im.Region{us})
	f.heals(f.starts("eu/postgres"))
	f.ends()
}

func TestKillRedis(t *testing.T) {
	f := begin(t, "kill -9 of Redis, and loss of all it held")
	f.breaks(f.Kill, "eu/redis")
	f.lasts(2 * time.Second)
	f.newcomers()
	f.flows(time.Now(), 20*time.Second, nil, nil)
	f.unnoticed()
	f.heals(f.forgets("eu/redis"), f.starts("eu/redis"))
	f.mirrors(eu)
	f.unnoticed()
	f.ends()
}

// mirrors waits until a region's Redis holds what the route logs spell.
func (f *fault) mirrors(region im.Region) {
	f.Helper()
	r, _ := f.Plan().Region(region)
	c, err := config.Load(r.Config, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	site, err := app.SiteOf(c)
	if err != nil {
		f.Fatal(err)
	}
	log, err := kafka.Open(f.Context(), site.Kafka, kafka.Deps{})
	if err != nil {
		f.Fatal(err)
	}
	defer log.Close()
	client := goredis.NewUniversalClient(site.Redis)
	defer client.Close()
	m := mirror.Region{Origins: site.Origins, Partitions: site.Partitions, Log: log, Redis: redis.NewRoutes(client, site.RedisPrefix), Prefix: site.RedisPrefix}
	rows := 0
	f.await(30*time.Second, func() (bool, string) {
		if rows, err = m.Differs(f.Context()); err != nil {
			return false, err.Error()
		}
		return rows > 0, "no routes are held"
	})
	f.Logf("Redis of %s holds the %d routes that its logs spell", region, rows)
}

// forgets removes what a member keeps.
func (f *fault) forgets(member string) func(context.Context) error {
	return func(context.Context) error {
		for _, m := range f.Plan().Members() {
			if m.Name == member {
				return os.RemoveAll(m.Dir)
			}
		}
		return fmt.Errorf("no member is called %s", member)
	}
}

// First one region's, then those of all: what is known goes on to hold, and users who come log in.
func TestKillConsul(t *testing.T) {
	f := begin(t, "kill -9 of a region's Consul, then of every one")
	f.breaks(f.Kill, "eu/consul")
	f.lasts(5 * time.Second) // longer than services live in it without a heartbeat
	f.newcomers()
	f.flows(time.Now(), 20*time.Second, nil, nil)
	f.do(f.Kill, "us/consul")
	f.lasts(10 * time.Second)
	f.newcomers()
	f.flows(time.Now(), 20*time.Second, nil, nil)
	f.unnoticed()
	f.heals(f.starts("eu/consul"), f.starts("us/consul"))
	f.ends()
}

// newcomers connects users while something is broken: they must find a gateway and each other.
func (f *fault) newcomers() {
	f.Helper()
	since := time.Now()
	traffic := f.more(demo.TrafficConfig{Pairs: 1, Every: time.Second})
	f.await(20*time.Second, func() (bool, string) { return traffic.Flows(since, nil, nil) })
}

func TestKillRegion(t *testing.T) {
	f := begin(t, "kill -9 of a region, with acked messages that were not shipped, and such as were acked as global")
	global := f.more(demo.TrafficConfig{Pairs: 2, Every: 20 * time.Millisecond, Ack: im.AckGlobal})
	f.await(30*time.Second, func() (bool, string) {
		_, n := global.Kept(eu, us)
		return n >= 50, "not enough messages of eu are acked as global"
	})
	f.broke = time.Now()
	ctx := t.Context()
	for _, l := range [][2]im.Region{{eu, us}, {us, eu}} {
		if err := f.Cut(ctx, l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	f.accepts(time.Now(), 30*time.Second, eu) // these are nowhere else
	f.do(f.Kill, "eu")
	for _, l := range [][2]im.Region{{eu, us}, {us, eu}} {
		if err := f.Heal(ctx, l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	died := time.Now()
	f.flows(died, 30*time.Second, nil, nil) // all of them are in us now
	f.Logf("users of eu go on in us after %s", seconds(time.Since(died)))
	f.await(20*time.Second, func() (bool, string) { // while eu is gone
		ok, n := global.Kept(eu, us)
		return ok, fmt.Sprintf("of %d messages that eu acked as global some are not shown in us", n)
	})
	f.heals(f.starts("eu"))
	f.ends()
}
