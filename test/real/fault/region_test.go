//go:build real && linux

package fault

import (
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/demo"
)

// TestAddRegion: a region is added to two whose users write all the time, by one command. No process of the two is another one
// afterwards, its users write to those of the two and read what they wrote, and all three regions hold the same.
func TestAddRegion(t *testing.T) {
	c := shared.of(t, "two of three", func() cluster.File {
		file := shared.threeRegions()
		file.Regions = file.Regions[:2]
		return file
	}, nil)
	f := beginIn(t, c, "a region is added")
	before := f.pids()
	f.broke = time.Now()
	data := "data=" + f.Plan().Data
	said := f.antipode("cluster", "add-region", "ap", "--host", shared.env.Host(3), "--set", data)
	f.took = "serves in " + seconds(time.Since(f.broke))
	shared.shape = "three"
	if !strings.Contains(said, "all others follow ap") || !strings.Contains(said, "ap serves") {
		t.Errorf("it does not tell how far it is: %s", said)
	}
	if said := f.antipode("cluster", "ps", "--set", data); !strings.Contains(said, "ap/imserver-2") || !strings.Contains(said, "ap → eu") {
		t.Errorf("ps does not list it: %s", said)
	}
	f.seen = f.traffic.Seen(f.broke)

	late := f.more(demo.TrafficConfig{Pairs: 1, Group: true, Super: true, Every: 250 * time.Millisecond})
	since := time.Now()
	f.await(60*time.Second, func() (bool, string) { return late.Flows(since, nil, nil) })
	f.flows(since, 30*time.Second, nil, nil)
	accepted := false
	for _, op := range late.Ops() {
		accepted = accepted || op.Ack.Origin == im.NewOrigin(ap, 1)
	}
	if !accepted {
		t.Error("nobody wrote in ap")
	}
	f.judge()
	after := f.pids()
	for name, pid := range before {
		if after[name] != pid {
			t.Errorf("%s was process %d and is %d", name, pid, after[name])
		}
	}
	if len(after) != len(before)/2*3 {
		t.Errorf("%d parts run, of two regions it were %d", len(after), len(before))
	}
}

// pids are the processes of the members.
func (f *fault) pids() map[string]int {
	all := map[string]int{}
	for _, s := range f.Status() {
		all[s.Name] = s.PID
	}
	return all
}
