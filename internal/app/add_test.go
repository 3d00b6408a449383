package app

import (
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// What can be added: what nobody knows, or what was added with the same words before, as long as every log is live.
func TestAddable(t *testing.T) {
	site := Site{Region: "eu", Origins: []im.Origin{"eu", "us"}, Regions: []im.Region{"eu", "us"}}
	sa := im.Member{Region: "sa", Origins: []im.Origin{"sa"}, Replicator: "sa:1", Via: map[im.Region]string{"us": "sa.us:1"}, Stamp: 9}
	before := sa
	before.Stamp = 5
	elsewhere := before
	elsewhere.Replicator = "sa:2"
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
		"it was added elsewhere":    {site: followed, said: []im.Member{elsewhere}, want: "known already"},
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
