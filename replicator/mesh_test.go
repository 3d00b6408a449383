package replicator_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/faultnet"
)

// TestMeshes links two to eight regions, each with every other. While all of them write, one is cut off from the rest, two of
// the others lose each other, and one's replicator dies; then every region holds every other's log, record by record, and
// every peer says so.
func TestMeshes(t *testing.T) {
	names := []im.Region{"eu", "us", "ap", "sa", "af", "me", "in", "oc"}
	for n := 2; n <= len(names); n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			regions := names[:n]
			m := newMesh(t, nil, regions...).start()
			write := func(round int) {
				for _, r := range regions {
					node := m.nodes[r]
					for i := range 60 {
						node.log.must(node.own()[i%len(node.own())], message(im.Origin(r), fmt.Sprint(r, " ", round, " ", i)))
					}
				}
			}
			write(0)
			m.caughtUp(t)

			alone, dies := regions[0], regions[n-1]
			var broken []*faultnet.Proxy
			for _, r := range regions[1:] {
				broken = append(broken, m.proxy(alone, r), m.proxy(r, alone))
			}
			if n > 3 { // the fewest among which two others can lose each other
				broken = append(broken, m.proxy(regions[1], regions[2]), m.proxy(regions[2], regions[1]))
			}
			for _, p := range broken {
				p.Cut()
			}
			write(1)
			m.nodes[dies].kill(im.ErrKilled)
			write(2)
			for _, from := range regions[1 : n-1] { // whoever reaches each other goes on
				for _, to := range regions[1 : n-1] {
					apart := n > 3 && (from == regions[1] && to == regions[2] || from == regions[2] && to == regions[1])
					if from != to && !apart {
						eventually(t, string(to)+" goes on to copy "+string(from), func() bool { return m.copied(from, to) })
					}
				}
			}
			for _, to := range regions[1:] {
				if m.copied(alone, to) {
					t.Errorf("%s has all of %s, which is cut off", to, alone)
				}
			}
			m.nodes[dies].start()
			for _, p := range broken {
				p.Heal()
			}
			write(3)
			m.caughtUp(t)
			for _, r := range regions {
				node := m.nodes[r]
				eventually(t, "all of "+string(r)+"'s log is told to be held", func() bool { return node.allHeld() })
			}
		})
	}
}

// allHeld tells whether some peer said that it holds all of the region's own log.
func (n *node) allHeld() bool {
	var held im.Held
	_ = n.replicator().Held(n.m.t.Context(), func(h im.Held) error { // the first answer says all
		held = h
		return io.EOF
	})
	for _, p := range n.own() {
		if held.Offsets[p] != n.log.end(p) {
			return false
		}
	}
	return true
}
