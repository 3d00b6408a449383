package gateway

import (
	"net/netip"
	runtimemetrics "runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// admission decides which logins begin. What a gateway that has no room refuses first is newcomers, who cost a claim in
// every region and a pull: a client that resumes costs little, and would cost that elsewhere.
type admission struct {
	handshakes *rates[netip.Addr] // upgrades of an address
	failures   *rates[netip.Addr] // logins of an address that showed a bad token
	logins     *rates[im.UID]     // logins of a user
	memory     atomic.Uint64      // bytes that this process has from the system, as of the last second
}

func newAdmission(c *Config) *admission {
	return &admission{
		handshakes: newRates[netip.Addr](c.HandshakeRate, c.HandshakeBurst),
		failures:   newRates[netip.Addr](c.FailureRate, c.FailureBurst),
		logins:     newRates[im.UID](c.LoginRate, c.LoginBurst),
	}
}

// sample is called about once a second.
func (a *admission) sample(now time.Time) {
	sample := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(sample)
	a.memory.Store(sample[0].Value.Uint64() - sample[1].Value.Uint64())
	a.handshakes.sweep(now)
	a.failures.sweep(now)
	a.logins.sweep(now)
}

// refusal is an error that says when to come back.
func refusal(code im.Code, after time.Duration, detail string) *im.Error {
	e := im.Errorf(code, "%s", detail)
	e.RetryAfter = after
	return e
}

// verify checks a token, and holds a bad one against the address that showed it.
func (g *Gateway) verify(ip netip.Addr, token string) (auth.Identity, error) {
	identity, err := g.deps.Tokens.Verify(token)
	if im.CodeOf(err) == im.CodeBadToken { // one that has expired was good once
		g.admission.failures.allow(ip, time.Now())
	}
	return identity, err
}

// admitUpgrade lets an address's handshake begin, or a call over HTTP, or says why not.
func (g *Gateway) admitUpgrade(ip netip.Addr) error {
	now := time.Now()
	switch {
	case g.admission.failures.spent(ip, now):
		return refusal(im.CodeTooManyRequests, 10*time.Second, "too many logins of your address showed a bad token")
	case !g.admission.handshakes.allow(ip, now):
		return refusal(im.CodeTooManyRequests, time.Second, "too many connections of your address in a short time")
	}
	return nil
}

// admit lets a login begin, or says why not. With nil, the login is counted in joining until it is done.
func (g *Gateway) admit(h *wire.Hello) *im.Error {
	limit := int64(g.cfg.MaxLogins)
	resumes := g.resumes(h)
	if resumes {
		limit *= 2
	}
	if n := g.joining.Add(1); n > limit {
		g.joining.Add(-1)
		g.metrics.shed("logins")
		return refusal(im.CodeOverloaded, time.Second, "too many logins are under way on this gateway")
	}
	if why := g.exhausted(); why != "" && !resumes {
		g.joining.Add(-1)
		g.metrics.shed("admission")
		return refusal(im.CodeOverloaded, 5*time.Second, why)
	}
	return nil
}

// exhausted tells what this process has too little of for newcomers; empty: nothing.
func (g *Gateway) exhausted() string {
	if limit := g.cfg.MaxMemory; limit > 0 && g.admission.memory.Load() > uint64(limit) {
		return "this gateway is out of memory for newcomers"
	}
	if limit := g.cfg.MaxCPU; limit > 0 {
		if _, cpu := g.load.read(); cpu > limit {
			return "this gateway is out of CPU for newcomers"
		}
	}
	return ""
}

// resumes tells whether a hello takes up a session that is here, and knows its secret.
func (g *Gateway) resumes(h *wire.Hello) bool {
	if h.Resume == nil {
		return false
	}
	id, ok := sessionIDOf(h.Resume.Session)
	if !ok {
		return false
	}
	s := g.hub.byID(id)
	return s != nil && s.knows(h.Resume.Secret)
}
