//go:build real && linux

package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/demo"
)

// A process that hangs keeps its connections and answers nothing: deadlines find it, not the kernel. It hangs until they
// have.
func TestPause(t *testing.T) {
	for _, c := range []struct {
		members string // those that nothing connects hang at once
		// during is held to while it hangs, with what goes on elsewhere.
		during func(f *fault)
	}{
		{"eu/kafka", func(f *fault) {
			f.told(30*time.Second, eu) // imserver.append_timeout
			f.reads("eu/imserver-1", "kafka", f.address("eu/kafka"))
			f.reads("eu/replicator-1", "kafka", f.address("eu/kafka"))
			f.flows(time.Now(), 30*time.Second, []im.Region{us}, []im.Region{us})
		}},
		{"eu/postgres", func(f *fault) {
			// timelines.connect_timeout and statement_timeout
			f.logs("eu/imserver-1", "the timelines do not take or give: apply stands still", "postgres at "+f.address("eu/postgres"))
			f.reads("eu/imserver-1", "postgres", f.address("eu/postgres"))
			f.accepts(time.Now(), 20*time.Second)
			f.flows(time.Now(), 20*time.Second, nil, []im.Region{us})
		}},
		{"eu/redis and eu/consul", func(f *fault) {
			f.reads("eu/router-1", "redis", f.address("eu/redis"))
			f.reads("eu/imserver-1", "consul", f.address("eu/consul"))
			f.flows(time.Now(), 20*time.Second, nil, nil)
			f.unnoticed()
		}},
		{"eu/imserver-1 and us/router-1", func(f *fault) { f.flows(f.broke, 20*time.Second, nil, nil) }},
		{"eu/gateway-1", func(f *fault) { f.accepts(time.Now(), 30*time.Second, us) }},
		{"eu/replicator-1", func(f *fault) {
			f.logs("us/replicator-1", "eu is silent for ") // replicator.link_timeout
			f.accepts(time.Now(), 30*time.Second)
			f.unnoticed()
		}},
		{"eu", func(f *fault) { f.flows(time.Now(), 30*time.Second, []im.Region{us}, []im.Region{us}) }},
	} {
		t.Run(c.members, func(t *testing.T) {
			f := begin(t, "pause of "+c.members)
			f.mark()
			var resumes []func(context.Context) error
			f.broke = time.Now()
			for member := range strings.SplitSeq(c.members, " and ") {
				f.do(f.Pause, member)
				resumes = append(resumes, f.resumes(member))
			}
			f.lasts(4 * time.Second)
			c.during(f)
			f.heals(resumes...)
			f.ends()
		})
	}
}

// told waits until users of a region were answered to send again, by a code and not by silence.
func (f *fault) told(limit time.Duration, region im.Region) {
	f.Helper()
	f.await(limit, func() (bool, string) {
		for code := range f.traffic.Seen(f.broke, region).Retried {
			if code != demo.NoAnswer && slices.Contains(im.Codes(), code) {
				return true, ""
			}
		}
		return false, "nobody in " + string(region) + " was told by a code to send again"
	})
}

func (f *fault) address(member string) string {
	f.Helper()
	for _, m := range f.Plan().Members() {
		if m.Name == member {
			return m.Address()
		}
	}
	f.Fatalf("no member is called %s", member)
	return ""
}

// reads waits until a member's readiness names what it lacks, with its address.
func (f *fault) reads(member, check, addr string) {
	f.Helper()
	f.await(30*time.Second, func() (bool, string) {
		said := f.readiness(member)[check]
		return strings.Contains(said, addr), fmt.Sprintf("readiness of %s says of %s: %q", member, check, said)
	})
}

// readiness are the checks of a member; none if it does not answer.
func (f *fault) readiness(member string) map[string]string {
	for _, m := range f.Plan().Members() {
		if m.Name != member {
			continue
		}
		resp, err := http.Get("http://" + m.Admin + "/readyz")
		if err != nil {
			return nil
		}
		defer resp.Body.Close()
		var answer struct {
			Checks map[string]string `json:"checks"`
		}
		if json.NewDecoder(resp.Body).Decode(&answer) != nil {
			return nil
		}
		return answer.Checks
	}
	return nil
}

// mark notes how long every log is: logs looks at what comes then.
func (f *fault) mark() {
	f.Helper()
	f.marks = map[string]int64{}
	for _, m := range f.Plan().Members() {
		if info, err := os.Stat(f.Plan().LogFile(m.Name)); err == nil {
			f.marks[m.Name] = info.Size()
		}
	}
}

// logs waits until a member logs a line with all of some texts.
func (f *fault) logs(member string, texts ...string) {
	f.Helper()
	f.await(30*time.Second, func() (bool, string) {
		text, err := os.ReadFile(f.Plan().LogFile(member))
		if err != nil {
			return false, err.Error()
		}
		for line := range strings.Lines(string(text[min(f.marks[member], int64(len(text))):])) {
			if !slices.ContainsFunc(texts, func(part string) bool { return !strings.Contains(line, part) }) {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%s logs nothing of %q", member, texts)
	})
}
