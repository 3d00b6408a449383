package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// refusedAs reads the error that ends a login.
func (p *peer) refusedAs(code im.Code, after time.Duration) {
	p.t.Helper()
	f, err := p.receive()
	if err != nil {
		p.t.Fatal(err)
	}
	if e := f.GetError(); e.GetCode() != string(code) || time.Duration(e.GetRetryAfterMs())*time.Millisecond != after {
		p.t.Fatalf("got %v, want %s and to come back in %v", f, code, after)
	}
	p.expectClose(code)
}

// Each limit of newcomers tells its code and when to come back, and lets who has a session here take it up again.
func TestLimitsOfLogins(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Config)
		exhaust func(r *rig) // makes the limit hold
		uid     im.UID       // who logs in
		code    im.Code
		after   time.Duration
	}{
		{
			"max_memory", func(c *Config) { c.MaxMemory = 1 << 40 },
			func(r *rig) { r.g.cfg.MaxMemory = 1; r.g.admission.sample(time.Now()) },
			"new", im.CodeOverloaded, 5 * time.Second,
		},
		{
			"max_cpu", func(c *Config) { c.MaxCPU = 1 },
			func(r *rig) {
				r.g.cfg.MaxCPU = 1e-9
				eventually(r.t, "some CPU was used", func() bool { r.g.load.sample(time.Now()); _, cpu := r.g.load.read(); return cpu > 1e-9 })
			},
			"new", im.CodeOverloaded, 5 * time.Second,
		},
		{
			"max_logins", func(c *Config) { c.MaxLogins = 1; c.ClaimTimeout = time.Minute },
			func(r *rig) { // of which one waits for its claim
				r.routers.mu.Lock()
				wait := make(chan struct{})
				r.routers.refuse = func(c im.Claim) error {
					if c.UID == "waits" {
						<-wait
					}
					return nil
				}
				r.routers.mu.Unlock()
				r.t.Cleanup(func() { close(wait) })
				r.dial(wire.SubprotocolProtobuf).send(r.hello("waits", 1))
				eventually(r.t, "a login is under way", func() bool { return r.g.joining.Load() == 1 })
			},
			"new", im.CodeOverloaded, time.Second,
		},
		{
			"login_rate", func(c *Config) { c.LoginRate, c.LoginBurst = 0.1, 2 },
			func(r *rig) {
				r.login(wire.SubprotocolProtobuf, "often", 1)
				r.login(wire.SubprotocolProtobuf, "often", 2)
			},
			"often", im.CodeTooManyRequests, 10 * time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.change)
			resumer, welcome := r.login(wire.SubprotocolProtobuf, "resumer", 1)
			resumer.ws.Close()
			eventually(t, "the resumer's login is over: its welcome came first", func() bool { return r.g.joining.Load() == 0 })
			c.exhaust(r)
			refused := r.dial(wire.SubprotocolProtobuf)
			refused.send(r.hello(c.uid, 3))
			refused.refusedAs(c.code, c.after)
			if c.name == "max_logins" {
				return // its router waits for another claim
			}
			if _, w := r.resume(wire.SubprotocolProtobuf, "resumer", 2, welcome, 0); !w.Resumed {
				t.Error("a resume was refused")
			}
		})
	}
}

// A resume may begin where as many newcomers as may are under way.
func TestLoginsUnderWayLeaveRoomForResumes(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxLogins = 1 })
	p, welcome := r.login(wire.SubprotocolProtobuf, "ann", 1)
	p.ws.Close()
	eventually(t, "ann's login is over: its welcome came first", func() bool { return r.g.joining.Load() == 0 })
	r.g.joining.Add(1)
	defer r.g.joining.Add(-1)
	refused := r.dial(wire.SubprotocolProtobuf)
	refused.send(r.hello("bob", 1))
	refused.refusedAs(im.CodeOverloaded, time.Second)
	if _, w := r.resume(wire.SubprotocolProtobuf, "ann", 2, welcome, 0); !w.Resumed {
		t.Error("a resume was refused")
	}
}

// callWith calls over HTTP, with a token.
func (r *rig) callWith(path, token string) (status int, retry string) {
	r.t.Helper()
	response, _ := r.post(path, "{}", map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json"})
	return response.StatusCode, response.Header.Get("Retry-After")
}

// The limits of an address hold for upgrades and for calls over HTTP, whichever of them used them up.
func TestLimitsOfAddresses(t *testing.T) {
	bad := func(r *rig) {
		r.t.Helper()
		for range 3 {
			if status, _ := r.callWith("/v1/submit", "no token"); status != http.StatusUnauthorized {
				r.t.Fatal(status)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		spend  func(r *rig)
		retry  int
	}{
		{"handshake_rate by upgrades", func(c *Config) { c.HandshakeRate, c.HandshakeBurst = 0.001, 3 }, func(r *rig) {
			for i := range 3 {
				r.login(wire.SubprotocolProtobuf, im.UID(fmt.Sprint("u", i)), 1)
			}
		}, 1},
		{"handshake_rate by calls", func(c *Config) { c.HandshakeRate, c.HandshakeBurst = 0.001, 3 }, bad, 1},
		{"failure_rate by logins", func(c *Config) { c.FailureRate, c.FailureBurst = 0.001, 3 }, func(r *rig) {
			for range 3 {
				p := r.dial(wire.SubprotocolProtobuf)
				h := r.hello("ann", 1)
				h.Token = "no token"
				p.send(h)
				p.expectClose(im.CodeBadToken)
			}
		}, 10},
		{"failure_rate by calls", func(c *Config) { c.FailureRate, c.FailureBurst = 0.001, 3 }, bad, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.change)
			c.spend(r)
			token := r.token("ann")
			_, response, err := r.tryDial(wire.SubprotocolProtobuf, nil)
			if err == nil || response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != strconv.Itoa(c.retry) {
				t.Errorf("an upgrade: %v, %v", err, response)
			}
			for _, path := range []string{"/v1/submit", "/v1/pull"} {
				if status, retry := r.callWith(path, token); status != http.StatusTooManyRequests || retry != strconv.Itoa(c.retry) {
					t.Errorf("%s: %d, to come back in %q s", path, status, retry)
				}
			}
			if len(r.backend.seen()) > 0 {
				t.Error("a call was let through")
			}
		})
	}
}

// An address's limits are those of its /64 where it is an IPv6 one, however it is written.
func TestSubscriber(t *testing.T) {
	for _, c := range []struct{ ip, want string }{
		{"192.0.2.7", "192.0.2.7"},
		{"::ffff:192.0.2.7", "192.0.2.7"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
		{"2001:db8:1:2::9", "2001:db8:1:2::"},
		{"fe80::1%eth0", "fe80::"},
	} {
		if got := subscriber(netip.MustParseAddr(c.ip)); got.String() != c.want {
			t.Errorf("%s counts as %v, want %s", c.ip, got, c.want)
		}
	}
}

// However many keys come, a new one gets its allowance, and those that have spent theirs are not forgiven.
func TestRatesEvict(t *testing.T) {
	r := newRates[int](1, 10)
	now := time.Now()
	for range 10 {
		r.allow(-1, now)
	}
	for key := range maxRates * 3 / 2 {
		if !r.allow(key, now) {
			t.Fatalf("key %d was refused", key)
		}
	}
	if !r.spent(-1, now) {
		t.Error("a key that had spent its allowance was forgotten for one that had not")
	}
	kept := 0
	for i := range r.shards {
		kept += len(r.shards[i].keys)
	}
	if kept > maxRates {
		t.Errorf("%d keys are counted, at most %d may be", kept, maxRates)
	}
}
