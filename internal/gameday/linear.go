package gameday

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/demo"
)

// An origin's log of a conversation is linearizable: a message that was acked before another was sent stands before it.
// (Regions see each other's logs later; that is not claimed of them.) The model is a counter: an append returns a seq above
// all before it. Of an id with several records in the log the first counts: it landed while the client was waiting.
var appends = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(last, _, seq any) (bool, any) { return seq.(uint64) > last.(uint64), seq },
	DescribeOperation: func(id, seq any) string {
		return fmt.Sprintf("append(%v) → seq %d", id, seq)
	},
}

// linearizable returns what contradicts it, for each conversation and origin. Seqs are as the regions hold them.
func linearizable(ops []demo.Op, seqs map[im.ID]map[im.Origin]uint64, limit time.Duration) []string {
	type log struct {
		conversation im.Conversation
		origin       im.Origin
	}
	logs := map[log][]porcupine.Operation{}
	for i, op := range ops {
		seq, held := seqs[op.ID][op.Ack.Origin]
		if op.Acked.IsZero() || !held {
			continue // other invariants name what is missing
		}
		l := log{op.Conversation, op.Ack.Origin}
		logs[l] = append(logs[l], porcupine.Operation{
			ClientId: i, Input: op.ID.ClientID, Output: seq, Call: op.Sent.UnixNano(), Return: op.Acked.UnixNano(),
		})
	}
	var wrong []string
	for l, history := range logs {
		switch porcupine.CheckOperationsTimeout(appends, history, limit) {
		case porcupine.Ok:
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("%s in the log of %s: the seqs of %d messages contradict the order in which they were sent and acked",
				l.conversation, l.origin, len(history)))
		case porcupine.Unknown:
			wrong = append(wrong, fmt.Sprintf("%s in the log of %s: not decided within %v for %d messages", l.conversation, l.origin, limit, len(history)))
		}
	}
	slices.Sort(wrong)
	return wrong
}
