package gateway

import (
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// A hot restart moves the session of a poll, which is told to come again.
func TestPollHotRestart(t *testing.T) {
	r := newRig(t, handoffAt(t))
	p, w := r.loginPoll(wire.SubprotocolProtobuf, "ann", 1)
	r.push("1", r.routers.last().Conn)
	p.expectPush(1, "1")
	closed := make(chan wire.PollAnswer, 1)
	go func() {
		closed <- p.poll.ask(wire.PollRequest{Conn: p.poll.conn, Number: p.poll.held + 1, HoldMs: 20_000})
	}()
	lp := r.g.polls.get(p.poll.conn)
	eventually(t, "the request is held", func() bool {
		lp.mu.Lock()
		defer lp.mu.Unlock()
		return lp.waits
	})
	n := r.next(t)
	eventually(t, "the next process took over", r.g.successor.has)
	if a := <-closed; a.Close != im.CodeUnavailable.Spec().Close || len(a.Frames) != 1 {
		t.Errorf("the held request: %+v", a)
	}
	n.push("2", 1)
	again, welcome := n.resumePoll(wire.SubprotocolProtobuf, "ann", 2, w, 1)
	if !welcome.Resumed {
		t.Error("the session is gone")
	}
	again.expectPush(2, "2")
	again.expectAlive()
	p.poll.client.CloseIdleConnections()
	r.ended()
}
