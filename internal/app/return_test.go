package app

import (
	"reflect"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// A region that returns tells the others its next epoch, and leaves the ways to its replicator as they were told before.
func TestReturnIsAnnounced(t *testing.T) {
	site := Site{Region: "eu", Origin: "eu.2", Origins: []im.Origin{"us", "eu.2", "eu"}, Regions: []im.Region{"eu", "us"}}
	epochs := []im.Origin{"eu", "eu.2"}
	ahead := im.StampAt(time.Now().Add(time.Hour)) // somebody's clock
	for name, c := range map[string]struct {
		before *im.Member
		want   im.Member
	}{
		"a region of the configuration": {want: im.Member{Region: "eu", Origins: epochs, Replicator: "eu:7401"}},
		"one that was added": {
			before: &im.Member{Region: "eu", Origins: []im.Origin{"eu"}, Replicator: "far:1", Via: map[im.Region]string{"us": "near:1"}, Stamp: ahead},
			want:   im.Member{Region: "eu", Origins: epochs, Replicator: "far:1", Via: map[im.Region]string{"us": "near:1"}},
		},
	} {
		m := registry.NewMemory(0)
		if c.before != nil {
			if err := m.SetMember(t.Context(), *c.before); err != nil {
				t.Fatal(err)
			}
		}
		o := &Operator{site: site, env: Env{Discovery: m}, addr: "eu:7401"}
		for range 2 { // the second as the first
			if err := o.announce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		said, err := m.Members(t.Context())
		if err != nil || len(said) != 1 {
			t.Fatalf("%s: told is %v, %v", name, said, err)
		}
		said[0].Stamp = 0
		if !reflect.DeepEqual(said[0], c.want) {
			t.Errorf("%s: told is %+v, want %+v", name, said[0], c.want)
		}
		follows := Site{Region: "us", Origins: []im.Origin{"eu", "us"}, Peers: map[im.Region]string{"eu": "configured:1"}}
		if seen := follows.members(said, nil); seen.newest("eu") != "eu.2" || seen.addrs["eu"] != "configured:1" {
			t.Errorf("%s: us follows %v at %v", name, seen.origins, seen.addrs)
		}
	}
}
