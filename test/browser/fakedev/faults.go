package fakedev

import (
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Say submits a text as a user of a region, as if another client of theirs had sent it, and returns its client_id.
func (w *World) Say(r im.Region, uid im.UID, conversation, text string) (string, error) {
	id := im.NewUUID(time.Now()).String()
	return id, w.SayAs(r, uid, conversation, text, id)
}

// SayAs does so under a client_id: saying it twice makes a repeat.
func (w *World) SayAs(r im.Region, uid im.UID, conversation, text, clientID string) error {
	m := &wire.SubmitRequest{Conversation: conversation, ClientId: clientID, Content: &wire.SubmitText{Text: &wire.Text{Text: text}}}
	trace := "00-" + randomHex(16) + "-" + randomHex(8) + "-01"
	_, err := w.submit(w.regions[r], uid, m, trace)
	return err
}

// Hint pushes the newest record of a region's conversation to a user in another region without applying it there: a
// notify that is faster than the log.
func (w *World) Hint(from, to im.Region, uid im.UID, conversation string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	records := w.regions[from].conv(conversation).records
	body, err := wire.Marshal(recordEvent(records[len(records)-1], from))
	if err != nil {
		return
	}
	w.each(to, uid, func(s *session) { s.push(body, "") })
}

// Lose makes the next n pushes to a user vanish on the way.
func (w *World) Lose(r im.Region, uid im.UID, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.each(r, uid, func(s *session) { s.mute = n })
}

// Drop cuts a user's connections without a word; the sessions wait for a resume.
func (w *World) Drop(r im.Region, uid im.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.each(r, uid, func(s *session) {
		if s.conn != nil {
			s.conn.cut()
		}
	})
}

// Goaway tells a user's clients to leave their gateway.
func (w *World) Goaway(r im.Region, uid im.UID, within time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.each(r, uid, func(s *session) {
		if s.conn != nil {
			s.conn.frame(&wire.Goaway{WithinMs: uint32(within.Milliseconds())})
		}
	})
}

// Refuse makes the next n submits of clients fail for good.
func (w *World) Refuse(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = n
}

// Stall makes a region leave the pulls that come in frames unanswered, or answer them again.
func (w *World) Stall(r im.Region, stalled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.regions[r].stalled = stalled
}

// Cancels counts the calls that clients took back.
func (w *World) Cancels() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cancels
}

// Resumes counts the sessions that were taken up again after they lost their socket.
func (w *World) Resumes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumes
}

// Block cuts every connection and lets no WebSocket through any more, and with polls no long poll either: a bad proxy.
func (w *World) Block(polls bool) { w.block(true, polls) }

// Unblock lets everything through again.
func (w *World) Unblock() { w.block(false, false) }

func (w *World) block(sockets, polls bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocked, w.noPolls = sockets, polls
	for _, name := range w.names {
		for _, g := range w.regions[name].gateways {
			for _, s := range g.sessions {
				if sockets && s.conn != nil {
					s.conn.cut()
				}
			}
		}
	}
}

// Sessions counts a user's sessions in a region.
func (w *World) Sessions(r im.Region, uid im.UID) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.each(r, uid, func(*session) { n++ })
	return n
}

func (w *World) each(r im.Region, uid im.UID, do func(*session)) {
	for _, g := range w.regions[r].gateways {
		for _, s := range g.sessions {
			if s.uid == uid {
				do(s)
			}
		}
	}
}
