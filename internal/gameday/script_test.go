package gameday

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/demo"
)

func TestScenariosAreRead(t *testing.T) {
	all, err := Scenarios()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Errorf("%d scenarios", len(all))
	}
	for _, s := range all {
		if found, err := Find(s.Name); err != nil || found.Title != s.Title {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err := fits(s.Steps, []im.Region{"ap", "eu", "us"}); err != nil {
			t.Error(err)
		}
	}
}

func TestParse(t *testing.T) {
	s, err := Parse("x", strings.NewReader(`
# A title
# a comment
users pairs 2 group every 100ms ack global
needs stand-in us,ap
repeat 2..5
  cut eu>us
  repeat 3
    hold 1s..2m
  end
end
split eu,us | ap
flows eu > us,ap within 10s
clock eu/imserver -4s
`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Title != "A title" || s.Users != (Users{Pairs: 2, Group: true, Every: 100 * time.Millisecond, Ack: im.AckGlobal}) {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(s.Needs, []im.Region{"us", "ap"}) {
		t.Errorf("needs: %v", s.Needs)
	}
	outer := s.Steps[0]
	if outer.Times.in(false) != 2 || outer.Times.in(true) != 5 || len(outer.Steps) != 2 || !outer.Steps[0].breaks() {
		t.Errorf("%+v", outer)
	}
	if hold := outer.Steps[1].Steps[0]; hold.For.in(false) != time.Second || hold.For.in(true) != 2*time.Minute || hold.Line != 9 {
		t.Errorf("%+v", hold)
	}
	if links := s.Steps[1].Links; len(links) != 4 {
		t.Errorf("split: %v", links)
	}
	if flows := s.Steps[2]; len(flows.From) != 1 || len(flows.To) != 2 || flows.For.Short != 10*time.Second {
		t.Errorf("%+v", flows)
	}
	if clock := s.Steps[3]; clock.For.Short != -4*time.Second || !clock.breaks() || clock.mends() {
		t.Errorf("%+v", clock)
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"break eu":                  "unknown step",
		"needs stand-in":            "such as needs stand-in us",
		"needs us":                  "such as needs stand-in us",
		"hold":                      "want one like 5s",
		"hold 60s..5s":              "the longer one last",
		"cut eu>eu":                 "want eu>us, eu or all",
		"split eu":                  "two groups",
		"split eu |":                "want groups",
		"flows":                     "want a bound",
		"accepts eu > us within 1s": "a direction is for flows",
		"told within 3s":            "want the region",
		"end":                       "no repeat is open",
		"repeat 0":                  "want one like 3",
		"repeat 3":                  "repeat without end",
		"kill":                      "want one member",
		"wipe":                      "want one member",
		"clock eu/imserver":         "want imservers and a duration",
		"users pairs x every 1s":    "invalid syntax",
		"users every 1s":            "want users pairs",
		"flows eu,,us within 1s":    "want names with commas",
	} {
		_, err := Parse("x", strings.NewReader("# t\nusers pairs 1 every 1s\n"+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x:3") {
			t.Errorf("%q: %v; want x:3 and %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"# t\nhold 1s\n":           "nobody writes",
		"users pairs 1 every 1s\n": "no title",
	} {
		if _, err := Parse("x", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	s, err := Parse("x", strings.NewReader("# t\nusers pairs 1 every 1s\ncut mars\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := fits(s.Steps, []im.Region{"eu"}); err == nil || !strings.Contains(err.Error(), `no region "mars"`) {
		t.Errorf("a region that there is not: %v", err)
	}
}

func TestFits(t *testing.T) {
	s := &Scenario{Name: "hub", Needs: []im.Region{"us"}}
	if err := s.Fits(Cluster{Cluster: three{}}); err == nil || !strings.Contains(err.Error(), "hub: us does not stand in") || !strings.Contains(err.Error(), "replicator.stand_ins=us") {
		t.Errorf("where nobody stands in: %v", err)
	}
	if err := s.Fits(Cluster{Cluster: three{}, StandIns: []im.Region{"ap", "us"}}); err != nil {
		t.Errorf("where us stands in: %v", err)
	}
}

// three is a cluster of three regions.
type three struct{ demo.Cluster }

func (three) Regions() []im.Region { return []im.Region{"eu", "us", "ap"} }
