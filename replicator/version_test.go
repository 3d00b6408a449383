package replicator_test

import (
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func TestLinkVersions(t *testing.T) {
	r, _, _ := alone(t, nil)
	running(t, r)
	ours := wire.LinkVersions()
	for name, c := range map[string]struct {
		version, newest uint32
		refused         string // empty: opened
		opened          uint32
	}{
		"one that names one version": {ours.Newest, 0, "", ours.Newest},
		"ours":                       {ours.Oldest, ours.Newest, "", ours.Newest},
		"one of the next release":    {ours.Newest, ours.Newest + 2, "", ours.Newest},
		"one too new":                {ours.Newest + 1, ours.Newest + 3, "upgrade us to", 0},
		"one too old":                {ours.Oldest - 1, ours.Oldest - 1, "upgrade eu to", 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := openUS(1 << 20)
			o.Version, o.Newest = c.version, c.newest
			p, ended := served(t, r, o)
			if c.refused != "" {
				if err := within(t, ended, "end"); im.CodeOf(err) != im.CodeBadRequest || !strings.Contains(err.Error(), c.refused) {
					t.Fatal(err)
				}
				return
			}
			if got := within(t, p.down, "opened").GetOpened(); got.GetVersion() != c.opened {
				t.Fatalf("opened with version %d, want %d", got.GetVersion(), c.opened)
			}
		})
	}
}

// A sender that answers a version which was not asked for is not listened to.
func TestLinkOpenedWithAnUnknownVersion(t *testing.T) {
	_, _, dialer := alone(t, nil)
	p := within(t, dialer, "link")
	open := within(t, p.up, "open").GetOpen()
	if asked := wire.AskedVersions(open); asked != wire.LinkVersions() {
		t.Errorf("asked for versions %v", asked)
	}
	p.down <- &wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: &wire.LinkOpened{
		Region: "eu", Version: wire.LinkVersions().Newest + 1, Partitions: make([]*wire.LinkPartitionState, len(open.Partitions)),
	}}}
	within(t, p.done, "end of the link")
	opened(t, within(t, dialer, "new link"))
}
