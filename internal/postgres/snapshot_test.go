package postgres

import (
	"fmt"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// A head that has moved past a cut is put back to its last record below it, though old months were detached since: then its
// seq is known of what is past the cut.
func testHeadAtCut(t *testing.T, timelines *Timelines) {
	chat := im.Conversation("d:ann:b")
	for wire.Partition(string(chat), 2) != us0.Number {
		chat += "b"
	}
	if err := timelines.Apply(t.Context(), []view.Part{part(us0, 0, 1, 5, chat)}); err != nil {
		t.Fatal(err)
	}
	at := func(next int64) string {
		text, records := "", 0
		err := timelines.Snapshot(t.Context(), &wire.SnapshotRequest{
			Partitions: 2, Databases: 1, Cut: []*wire.SnapshotPosition{{Topic: us0.Topic, Next: next}},
		}, func(c *wire.SnapshotChunk) error {
			for _, h := range c.Heads {
				text += fmt.Sprintf("head %d at %d, ", h.Seq, h.Offset)
			}
			records += len(c.Records)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return text + fmt.Sprint(records)
	}
	check := func(next int64, want string) {
		t.Helper()
		if got := at(next); got != want {
			t.Errorf("cut at %d: %q, want %q", next, got, want)
		}
	}
	check(0, "0")
	check(2, "head 2 at 1, 2")
	check(5, "head 5 at 4, 5")
	exec(t, timelines.dbs[0], `DELETE FROM messages WHERE seq <= 3`)
	check(0, "0")
	check(3, "head 3 at 0, 0")
	check(4, "head 4 at 3, 1")
}
