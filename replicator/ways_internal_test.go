package replicator

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/antipode-im/antipode/im"
)

// TestWays plays testdata/ways: what is done next, after what became of links. Times count from when the replicator began.
func TestWays(t *testing.T) {
	datadriven.Walk(t, "testdata/ways", func(t *testing.T, path string) {
		began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		var w *Ways
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			moment := func(arg string) time.Time {
				var s string
				d.ScanArgs(t, arg, &s)
				after, err := time.ParseDuration(s)
				if err != nil {
					t.Fatal(err)
				}
				return began.Add(after)
			}
			answer := ""
			switch d.Cmd {
			case "ways":
				var first, after string
				silence := "5s"
				var others []im.Region
				d.ScanArgs(t, "first", &first)
				d.ScanArgs(t, "after", &after)
				for _, a := range d.CmdArgs {
					for _, v := range a.Vals {
						if a.Key == "others" {
							others = append(others, im.Region(v))
						}
					}
				}
				if d.HasArg("silence") {
					d.ScanArgs(t, "silence", &silence)
				}
				patience, err := time.ParseDuration(after)
				if err != nil {
					t.Fatal(err)
				}
				silent, err := time.ParseDuration(silence)
				if err != nil {
					t.Fatal(err)
				}
				w = NewWays(im.Region(first), others, patience, silent, began)
			case "opened":
				w.Open(moment("at"))
			case "closed": // and something came over it last
				heard := "at"
				if d.HasArg("heard") {
					heard = "heard"
				}
				w.Closed(moment(heard), moment("at"))
			case "left":
				left, ok := w.Left(moment("at"))
				if !ok {
					return "no turn is waited for\n"
				}
				return fmt.Sprintf("%v left\n", left)
			case "look":
				wait, ok := w.Look(moment("at"))
				if !ok {
					return "not to be looked\n"
				}
				return fmt.Sprintf("look in %v\n", wait)
			case "works", "fails":
				answer = "stays\n"
				if w.LookedAt(d.Cmd == "works", moment("at")) {
					answer = "closes\n"
					w.Closed(moment("at"), moment("at"))
				}
			case "deaf":
				wait, ok := w.Deaf(moment("of"), moment("at"))
				if !ok {
					return "it stays\n"
				}
				return fmt.Sprintf("left in %v\n", wait)
			case "heard": // when the origin was, as the region in between says
				answer = "stays\n"
				if w.GiveUp(moment("of"), moment("at")) {
					answer = "closes\n"
					w.Closed(moment("at"), moment("at"))
				}
			default:
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			return answer + fmt.Sprintf("way: %s\n", w.Way())
		})
	})
}
