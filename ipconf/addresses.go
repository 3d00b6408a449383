package ipconf

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// addresses bounds the requests of each address (of IPv6: each /64). It remembers, in a table that does not grow, when each
// would have its whole allowance again. Addresses that share a place there share an allowance; which ones do is secret, so
// nobody can use up another's.
type addresses struct {
	each  time.Duration // that one request costs
	burst time.Duration // that may be owed
	seed  maphash.Seed
	full  []atomic.Int64 // Unix nanoseconds
}

const (
	addressPlaces = 1 << 18 // of 8 bytes
	// addressBurst is how many seconds' worth may come at once: a household that is online again, an office.
	addressBurst = 10
)

func newAddresses(perSecond float64) *addresses {
	each := time.Duration(float64(time.Second) / perSecond)
	return &addresses{each: each, burst: addressBurst * time.Second, seed: maphash.MakeSeed(), full: make([]atomic.Int64, addressPlaces)}
}

// ask takes one request off the allowance of an address, and returns 0, or how long it is to wait. Addresses that are not
// public are not bounded: they are balancers that trusted_proxies does not name, for whom all clients would pay, or our own.
func (a *addresses) ask(ip netip.Addr, now time.Time) time.Duration {
	if !ip.IsValid() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() {
		return 0
	}
	place := &a.full[maphash.Comparable(a.seed, subscriber(ip))%addressPlaces]
	for {
		old := place.Load()
		owed := max(old, now.UnixNano()) + int64(a.each)
		if wait := time.Duration(owed-now.UnixNano()) - a.burst; wait > 0 {
			return wait
		}
		if place.CompareAndSwap(old, owed) {
			return 0
		}
	}
}
