package replicator_test

import (
	"context"
	"testing"
)

// What stands at the ends of logs and copies is read together, not partition by partition.
func TestOpensWithFewReads(t *testing.T) {
	m := newMesh(t, nil, "eu", "us")
	eu, us := m.nodes["eu"], m.nodes["us"]
	for i := range 40 {
		eu.log.must(eu.own()[i%4], message("eu", "before"))
	}
	m.start().caughtUp(t)
	for _, n := range m.nodes {
		n.kill(context.Canceled)
		n.log.roomy(true)
	}
	m.start()
	for _, p := range eu.own() {
		eu.log.must(p, message("eu", "after"))
	}
	m.caughtUp(t)
	for _, n := range []*node{eu, us} {
		if reads := n.log.single(); reads > 0 {
			t.Errorf("%s read %d times from one partition", n.region, reads)
		}
	}
}
