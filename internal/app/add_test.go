package app

import (
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// What can be added: what nobody knows, or what was added before, maybe with another address, as long as every log is live.
func TestAddable(t *testing.T) {
	site := Site{Region: "eu", Origins: []im.Origin{"eu", "us"}, Regions: []im.Region{"eu", "us"}}
	sa := im.Member{Region: "sa", Origins: []im.Origin{"sa"}, Replicator: "sa:1", Via: map[im.Region]string{"us": "sa.us:1"}, Stamp: 9}
	before := sa
	before.Stamp = 5
	elsewhere := before
	elsewhere.Replicator = "sa:2"
	returned := before
	returned.Origins = []im.Origin{"sa", "sa.2"}
	known := site
	known.Regions = []im.Region{"eu", "sa", "us"}
	followed := known
	followed.Origins = []im.Origin{"eu", "us", "sa"}
	twice := site
	twice.Origins = []im.Origin{"eu", "us", "us.2"}
	for name, c := range map[string]struct {
		site   Site
		said   []im.Member
		states map[im.Region]im.RegionState
		want   string
	}{
		"nobody knows it":           {site: site},
		"it was added before":       {site: followed, said: []im.Member{before}},
		"it was added elsewhere":    {site: followed, said: []im.Member{elsewhere}},
		"it has come back before":   {site: followed, said: []im.Member{returned}, want: "known already"},
		"it is configured":          {site: known, want: "known already"},
		"it was lost":               {site: site, states: map[im.Region]im.RegionState{"sa": {State: im.StateDead}}, want: "comes back by antipode region return"},
		"another is lost":           {site: site, states: map[im.Region]im.RegionState{"us": {State: im.StateDead}}},
		"another is in a new epoch": {site: twice},
	} {
		o := &Operator{site: c.site}
		err := o.addable(sa, c.said, c.states)
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// An address that nobody can dial is refused before anybody is told of it.
func TestAddressesThatCanBeReached(t *testing.T) {
	for addr, good := range map[string]bool{
		"sa-replicator.example:7401": true, "10.0.0.9:7401": true, "[2001:db8::1]:7401": true,
		"sa-replicator.example": false, ":7401": false, "sa:replicator": false, "sa:0": false, "http://sa:7401": false,
	} {
		direct := im.Member{Region: "sa", Replicator: addr}
		via := im.Member{Region: "sa", Replicator: "sa:7401", Via: map[im.Region]string{"us": addr}}
		for _, m := range []im.Member{direct, via} {
			if err := reachable(m); (err == nil) != good {
				t.Errorf("%+v: %v, want it good: %v", m, err, good)
			}
		}
	}
}

// I1: what was acknowledged as global because a region had it is in another one before that region is removed.
func TestWhatARegionAloneHas(t *testing.T) {
	direct, group := im.Partition{Topic: "msg.eu.direct"}, im.Partition{Topic: "msg.eu.group", Number: 1}
	read, route := im.Partition{Topic: "read.eu"}, im.Partition{Topic: "route.eu"}
	type held = map[im.Partition]int64
	for name, c := range map[string]struct {
		has    held
		others []held
		want   int64
	}{
		"there is no third region":         {has: held{direct: 9}},
		"the others have as much":          {has: held{direct: 9, group: 4}, others: []held{{direct: 9, group: 4}}},
		"each has a part of it":            {has: held{direct: 9, group: 4}, others: []held{{direct: 2, group: 4}, {direct: 9}}},
		"the others have more by now":      {has: held{direct: 9}, others: []held{{direct: 12}}},
		"a link to the others was cut":     {has: held{direct: 9, group: 4}, others: []held{{direct: 7, group: 1}, {direct: 6, group: 2}}, want: 4},
		"nobody else has anything":         {has: held{direct: 9, read: 2}, others: []held{{}}, want: 11},
		"routes are claimed anew":          {has: held{route: 9}, others: []held{{}}},
		"what the region lacks is no loss": {has: held{}, others: []held{{direct: 3}}},
	} {
		if got := alone(c.has, c.others); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
