package gameday

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/demo"
)

func TestReport(t *testing.T) {
	op := sent(1, 2000, 2100)
	op.From = "eu"
	op.Shown = []demo.Showing{{UID: "bob", Region: "us", At: at(3000)}, {UID: "ann", Region: "eu", At: at(2050)}}
	r := &Result{
		Scenario: &Scenario{Name: "x", Title: "Things <break>"}, Began: at(0), Took: 20 * time.Second,
		Events: []Event{
			{At: at(2000), Text: "cut eu", Breaks: true},
			{At: at(3000), Text: "kill eu/kafka", Breaks: true},
			{At: at(5000), Text: "flows within 1s", Check: true, Err: errors.New("not within 1s")},
			{At: at(10000), Took: time.Second, Text: "heal eu", Mends: true},
			{At: at(12000), Text: mendAll, Mends: true},
		},
		Samples:    []Sample{{At: at(4000), Lags: map[string]float64{"eu → us": 2.5}}},
		Ops:        []demo.Op{op},
		Violations: []checker.Violation{{Invariant: "I3", Detail: "orders differ"}},
	}
	var b bytes.Buffer
	if err := WriteReport(&b, []*Result{r}); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{
		"Things &lt;break&gt;", "I3: orders differ", "not everything held",
		`x="100" y="0" width="450"`,  // the cut, from 2 s to 11 s of 20 s
		`x="150" y="18" width="450"`, // the kill, until everything was mended
		`points="100,0.0 "`,          // the delivery across, the highest
		"up to 2.5 s",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestMended(t *testing.T) {
	for _, c := range []struct {
		broken, mend string
		want         bool
	}{
		{"cut eu", "heal eu", true},
		{"cut eu>us", "heal all", true},
		{"split eu | us", "heal all", true},
		{"cut eu", "heal us", false},
		{"kill eu/kafka", "start eu", true},
		{"kill eu/kafka", "start us", false},
		{"wipe eu/postgres", "start eu/postgres", true},
		{"kill eu/kafka", "heal all", false},
		{"pause eu/router-1", "resume eu/router-1", true},
		{"clock eu/imserver 4s", "clock eu/imserver 0s", true},
		{"kill all", mendAll, true},
	} {
		if got := mended(c.broken, c.mend); got != c.want {
			t.Errorf("%s, then %s: %v", c.broken, c.mend, got)
		}
	}
}
