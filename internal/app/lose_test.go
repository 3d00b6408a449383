package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// I1: what a service acknowledges under an origin that is sealed is lost. So none runs in a region that was declared lost, nor, when
// the region came back, under the epoch before, though nobody calls it lost then; one that runs ends when it hears of it.
func TestNoServiceRunsUnderASealedOrigin(t *testing.T) {
	back := im.Member{Region: "eu", Origins: []im.Origin{"eu", "eu.2"}, Replicator: "eu:1", Stamp: 9}
	other := im.Member{Region: "us", Origins: []im.Origin{"us", "us.2", "us.3"}, Replicator: "us:1", Stamp: 9}
	state := func(s im.State) *im.RegionState { return &im.RegionState{Region: "eu", State: s, Stamp: 9} }
	for name, c := range map[string]struct {
		origin  im.Origin
		state   *im.RegionState
		members []im.Member
		lost    bool
		says    string
	}{
		"nothing is said":                 {origin: "eu"},
		"another region came back":        {origin: "eu", state: state(im.StateActive), members: []im.Member{other}},
		"it was declared lost":            {origin: "eu", state: state(im.StateDead), lost: true, says: "run antipode region return"},
		"it was removed":                  {origin: "eu", state: state(im.StateRemoved), lost: true, says: "run antipode region return"},
		"it came back, and this is it":    {origin: "eu.2", state: state(im.StateJoining), members: []im.Member{back}},
		"it came back, and this is older": {origin: "eu", state: state(im.StateJoining), members: []im.Member{other, back}, says: "Set origin_epoch: 2"},
		"it comes back":                   {origin: "eu.3", state: state(im.StateJoining), members: []im.Member{back}},
	} {
		for _, before := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				said := registry.NewMemory(0)
				p := &process{
					env: Env{Discovery: said}, site: Site{Region: "eu", Origin: c.origin},
					tel: &telemetry.Telemetry{Log: slog.New(slog.NewTextHandler(io.Discard, nil))},
				}
				say := func() {
					if c.state != nil {
						if err := said.SetRegionState(ctx, *c.state); err != nil {
							t.Fatal(err)
						}
					}
					for _, m := range c.members {
						if err := said.SetMember(ctx, m); err != nil {
							t.Fatal(err)
						}
					}
				}
				var err error
				if before {
					say()
					err = p.sentence(ctx)
				} else {
					done := make(chan error, 1)
					go func() { done <- p.obey(ctx) }()
					synctest.Wait()
					say()
					synctest.Wait()
					select {
					case err = <-done:
					default:
						stop()
						<-done
					}
				}
				_, lost := errors.AsType[*im.LostError](err)
				if lost != c.lost || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s, said before the start: %v: %v, want %q", name, before, err, c.says)
				}
			})
		}
	}
}
