package replicator_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
)

// TestPeersComeAndGo: a region becomes a peer of two that run, and one of these is none any more. The link between the two
// that stay is not opened anew.
func TestPeersComeAndGo(t *testing.T) {
	alone := im.Region("ap")
	m := newMesh(t, func(c *replicator.Config) {
		if c.Region != alone { // they do not know it
			var known []replicator.Peer
			for _, p := range c.Peers {
				if p.Region != alone {
					known = append(known, p)
				}
			}
			c.Peers = known
		}
	}, "eu", "us", alone)
	for name, n := range m.nodes {
		for i := range 100 {
			n.log.must(n.own()[i%4], message(im.Origin(name), fmt.Sprint(i)))
		}
	}
	m.start()
	eventually(t, "eu and us have each other's logs", func() bool { return m.copied("eu", "us") && m.copied("us", "eu") })
	if ends := m.nodes["eu"].replicator().Ends(); len(ends) != 1 || len(ends["us"]) == 0 {
		t.Errorf("eu hears of %v", ends)
	}
	opened := openedOf(t, m.nodes["eu"], "us")
	peers := func(of ...im.Region) (all []replicator.Peer) {
		for _, r := range of {
			all = append(all, replicator.Peer{Region: r, Origin: im.Origin(r)})
		}
		return all
	}
	if err := m.nodes["eu"].replicator().Follow(peers("us", alone), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.nodes["us"].replicator().Follow(peers("eu", alone), nil); err != nil {
		t.Fatal(err)
	}
	m.caughtUp(t)
	if now := openedOf(t, m.nodes["eu"], "us"); !now.Equal(opened) {
		t.Errorf("the link from us was opened at %v, and anew at %v", opened, now)
	}

	if err := m.nodes["eu"].replicator().Follow(peers(alone), nil); err != nil {
		t.Fatal(err)
	}
	if in := m.nodes["eu"].replicator().Status().In; len(in) != 1 || in[0].Peer != alone {
		t.Errorf("eu has links from %+v", in)
	}
	eventually(t, "us cannot link to eu any more", func() bool {
		for _, in := range m.nodes["us"].replicator().Status().In {
			if in.Peer == "eu" {
				return !in.Open
			}
		}
		return false
	})
	if states, err := m.nodes["eu"].replicator().CopyHold(t.Context(), "us", 0); err != nil || len(states) == 0 {
		t.Errorf("eu's copies of us are not readable any more: %v", err)
	}
	if err := m.nodes["eu"].replicator().Follow(peers("eu"), nil); err == nil {
		t.Error("a region is its own peer")
	}
	var refused *im.Error
	if err := m.nodes["eu"].replicator().Notify(t.Context(), "us", nil); !errors.As(err, &refused) || refused.Code != im.CodeBadRequest {
		t.Errorf("us is no peer, and is notified: %v", err)
	}
}

func openedOf(t *testing.T, n *node, peer im.Region) time.Time {
	t.Helper()
	for _, in := range n.replicator().Status().In {
		if in.Peer == peer && in.Open {
			return in.Since
		}
	}
	t.Fatalf("%s has no open link from %s", n.region, peer)
	return time.Time{}
}
