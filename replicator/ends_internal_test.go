package replicator

import (
	"testing"

	"github.com/antipode-im/antipode/im"
)

// TestEndsDoNotGoBack: of two questions for where the log ends the later counts, whichever is answered first.
func TestEndsDoNotGoBack(t *testing.T) {
	p := im.Partition{Topic: "msg.eu.direct"}
	at := func(end int64) map[im.Partition]im.Bounds { return map[im.Partition]im.Bounds{p: {End: end}} }
	var e ends
	first, second := e.ask(), e.ask()
	e.answer(second, at(20))
	e.answer(first, at(10))
	if _, bounds := e.snapshot(); bounds[p].End != 20 {
		t.Errorf("the log ends at %d, after 20 was known", bounds[p].End)
	}
	e.answer(e.ask(), at(5)) // an older log was restored
	if _, bounds := e.snapshot(); bounds[p].End != 5 {
		t.Errorf("the log ends at %d, but 5 was answered last", bounds[p].End)
	}
}
