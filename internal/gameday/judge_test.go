package gameday

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/demo"
)

// at is a moment of these tests, in milliseconds.
func at(ms int) time.Time { return time.UnixMilli(int64(1_000_000 + ms)) }

// sent is a message to d:ann:bob that took from one moment to another to be acked by eu.
func sent(n, from, to int) demo.Op {
	return demo.Op{
		ID:           im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: im.NewUUID(at(n))},
		Conversation: "d:ann:bob", Sent: at(from), Acked: at(to), Ack: im.Ack{Origin: "eu"},
	}
}

func TestLinearizable(t *testing.T) {
	first, beside, later := sent(1, 0, 100), sent(2, 50, 200), sent(3, 150, 300)
	ops := []demo.Op{first, beside, later}
	for _, c := range []struct {
		what    string
		seqs    [3]uint64
		illegal bool
	}{
		{"in the order of sending", [3]uint64{1, 2, 3}, false},
		{"two that overlap, the other way round", [3]uint64{2, 1, 3}, false},
		{"the last two overlap as well", [3]uint64{1, 3, 2}, false},
		{"sent after an ack, numbered before it", [3]uint64{3, 2, 1}, true},
		{"with gaps, for repeats of others", [3]uint64{4, 7, 9}, false},
	} {
		seqs := map[im.ID]map[im.Origin]uint64{}
		for i, op := range ops {
			seqs[op.ID] = map[im.Origin]uint64{"eu": c.seqs[i]}
		}
		if wrong := linearizable(ops, seqs, time.Minute); (len(wrong) > 0) != c.illegal {
			t.Errorf("%s: %v", c.what, wrong)
		}
	}
}

func TestPrematurely(t *testing.T) {
	op := sent(1, 0, 100)
	seqs := map[im.ID]map[im.Origin]uint64{op.ID: {"eu": 5}}
	for _, c := range []struct {
		what    string
		shown   time.Time
		claimed uint64
		wrong   bool
	}{
		{"shown before", at(400), 5, false},
		{"shown a moment after the claim", at(500).Add(claimSlack / 2), 5, false},
		{"shown long after", at(500).Add(2 * claimSlack), 5, true},
		{"never shown", time.Time{}, 6, true},
		{"not claimed", time.Time{}, 4, false},
	} {
		op.Shown = []demo.Showing{{UID: "bob", Region: "us", At: c.shown}}
		claims := []demo.Claim{{UID: "bob", Conversation: op.Conversation, Delivered: im.Cursor{"eu": c.claimed}, At: at(500)}}
		if wrong := prematurely([]demo.Op{op}, claims, seqs); (len(wrong) > 0) != c.wrong {
			t.Errorf("%s: %v", c.what, wrong)
		}
	}
}
