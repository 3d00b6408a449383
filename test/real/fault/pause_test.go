//go:build real && linux

package fault

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// A process that hangs keeps its connections and answers nothing: deadlines find it, not the kernel.
func TestPause(t *testing.T) {
	for _, c := range []struct {
		member string
		// during is held to while it hangs, with what goes on elsewhere.
		during func(f *fault)
	}{
		{"eu/kafka", func(f *fault) {
			f.flows(time.Now(), 10*time.Second, []im.Region{us}, []im.Region{us})
		}},
		{"eu/postgres", func(f *fault) {
			f.accepts(time.Now(), 20*time.Second)
			f.flows(time.Now(), 20*time.Second, nil, []im.Region{us})
		}},
		{"eu/redis", func(f *fault) {
			f.flows(time.Now(), 20*time.Second, nil, nil)
			f.unnoticed()
		}},
		{"eu/consul", func(f *fault) {
			f.flows(time.Now(), 20*time.Second, nil, nil)
			f.unnoticed()
		}},
		{"eu/imserver-1", func(f *fault) { f.flows(f.broke, 20*time.Second, nil, nil) }},
		{"eu/router-1", func(f *fault) { f.flows(f.broke, 20*time.Second, nil, nil) }},
		{"eu/gateway-1", func(f *fault) { f.accepts(time.Now(), 10*time.Second, us) }},
		{"eu/replicator-1", func(f *fault) {
			f.accepts(time.Now(), 10*time.Second)
			f.unnoticed()
		}},
		{"eu", func(f *fault) { f.flows(time.Now(), 10*time.Second, []im.Region{us}, []im.Region{us}) }},
	} {
		t.Run(c.member, func(t *testing.T) {
			f := begin(t, "pause of "+c.member+" for 4 s")
			f.breaks(f.Pause, c.member)
			f.lasts(4 * time.Second)
			c.during(f)
			f.heals(f.resumes(c.member))
			f.ends()
		})
	}
}
