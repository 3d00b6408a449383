package cluster

import (
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/faultnet"
)

// link is the proxy that a link between two regions passes.
type link struct {
	LinkPlan
	proxy *faultnet.Proxy

	mu    sync.Mutex
	delay time.Duration
	cut   bool
}

// LinkStatus is what is known of a link.
type LinkStatus struct {
	From  im.Region     `json:"from"`
	To    im.Region     `json:"to"`
	Cut   bool          `json:"cut"`
	Delay time.Duration `json:"delay"` // one way
}

// links are all of a cluster.
type links []*link

func openLinks(plans []LinkPlan, delay time.Duration) (links, error) {
	var all links
	for _, l := range plans {
		proxy, err := faultnet.Listen(l.Addr, l.Targets[0])
		if err != nil {
			all.close()
			return nil, fmt.Errorf("link %s: %w", l.Name(), err)
		}
		proxy.Delay(delay)
		all = append(all, &link{LinkPlan: l, proxy: proxy, delay: delay})
	}
	return all, nil
}

func (ls links) close() {
	for _, l := range ls {
		l.proxy.Close()
	}
}

func (ls links) find(from, to im.Region) (*link, error) {
	for _, l := range ls {
		if l.From == from && l.To == to {
			return l, nil
		}
	}
	return nil, fmt.Errorf("link from %s to %s: %w", from, to, ErrUnknown)
}

// lead points the links from a region to one of its replicators that runs. Connections that are open stay.
func (ls links) lead(from im.Region, target string) {
	for _, l := range ls {
		if l.From == from {
			l.proxy.SetTarget(target)
		}
	}
}

// status tells how the link is.
func (l *link) status() LinkStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LinkStatus{From: l.From, To: l.To, Cut: l.cut, Delay: l.delay}
}

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		l.proxy.Cut()
	} else {
		l.proxy.Heal()
	}
}

func (l *link) setDelay(d time.Duration) error {
	if d < 0 || d > maxDelay {
		return fmt.Errorf("delay %v: want 0s to %v", d, maxDelay)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
	l.proxy.Delay(d)
	return nil
}
