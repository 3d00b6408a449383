package imserver

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxMarks bounds the users and conversations whose cursors are held back at once.
const maxMarks = 100_000

type markKey struct {
	conversation im.Conversation
	uid          im.UID
}

// marked is what is held back of one user's cursors of one conversation, since its last record.
type marked struct {
	delivered, read im.Cursor
	pending         bool
}

// marks hold cursors back so that a user who reads along makes at most one record a second and conversation. What is
// held back is lost with the process; clients repeat their cursors.
type marks struct {
	mu    sync.Mutex
	held  map[markKey]*marked
	soon  []markKey     // due at once
	due   []dueMark     // in time order: every entry waits equally long
	fresh chan struct{} // soon is not empty
}

type dueMark struct {
	key markKey
	at  time.Time
}

func newMarks() *marks {
	return &marks{held: map[markKey]*marked{}, fresh: make(chan struct{}, 1)}
}

// add merges cursors into what is held. false: too much is held already.
func (m *marks) add(k markKey, delivered, read im.Cursor) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	held, ok := m.held[k]
	if !ok {
		if len(m.held) >= maxMarks {
			return false
		}
		held = &marked{}
		m.held[k] = held
		m.soon = append(m.soon, k)
		select {
		case m.fresh <- struct{}{}:
		default:
		}
	}
	held.delivered, held.read, held.pending = held.delivered.Merge(delivered), held.read.Merge(read), true
	return true
}

// take returns what is due (all of it, if ending), and when to look again. Each key then waits for the interval; one
// that has nothing new by then is forgotten.
func (m *marks) take(now time.Time, interval time.Duration, all bool) (ready []wire.Cursors, next time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	look := m.soon
	m.soon = nil
	n := 0
	for ; n < len(m.due) && (all || !m.due[n].at.After(now)); n++ {
		look = append(look, m.due[n].key)
	}
	m.due = m.due[n:]
	for _, k := range look {
		held := m.held[k]
		if !held.pending {
			delete(m.held, k)
			continue
		}
		ready = append(ready, wire.Cursors{Conversation: k.conversation, UID: k.uid, Delivered: held.delivered, Read: held.read})
		held.pending = false
	}
	for _, c := range ready {
		m.due = append(m.due, dueMark{markKey{c.Conversation, c.UID}, now.Add(interval)})
	}
	if len(m.due) == 0 {
		return ready, time.Hour
	}
	return ready, max(0, m.due[0].at.Sub(now))
}

// mark moves the caller's cursors. The answer says what was taken: what the region has not applied is cut off, so that
// no forged cursor can pass what exists.
func (s *Server) mark(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.MarkRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	conversation, err := s.conversation(request.Conversation, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	delivered, err := im.ParseCursor(request.Delivered)
	if err != nil {
		return im.CallResult{}, err
	}
	read, err := im.ParseCursor(request.Read)
	if err != nil {
		return im.CallResult{}, err
	}
	if _, _, err := s.present(ctx, conversation, c.UID); err != nil {
		return im.CallResult{}, err
	}
	heads, err := s.heads(ctx, conversation, delivered.Merge(read))
	if err != nil {
		return im.CallResult{}, unavailable(s, "how far the conversation is cannot be read", err)
	}
	delivered, read = delivered.Cut(heads), read.Cut(heads)
	if len(delivered)+len(read) > 0 && !s.marks.add(markKey{conversation, c.UID}, delivered, read) {
		return im.CallResult{}, im.Errorf(im.CodeOverloaded, "too many cursors are waiting to be written")
	}
	return answer(wire.Marshal(&wire.MarkResponse{Delivered: delivered.String(), Read: read.String()}))
}

// keepMarks writes what is due until ctx ends, and then, unless it was killed, everything that is held.
func (s *Server) keepMarks(ctx, hard context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		ready, next := s.marks.take(s.deps.Now(), s.cfg.MarkInterval, false)
		s.writeMarks(hard, ready)
		if len(ready) > 0 {
			continue // writing took time
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
		case <-s.marks.fresh:
		case <-timer.C:
		}
	}
	if !killed(ctx) {
		ready, _ := s.marks.take(s.deps.Now(), s.cfg.MarkInterval, true)
		s.writeMarks(hard, ready)
	}
}

// writeMarks appends cursors, partition by partition at once. What the log does not take is held for another second.
func (s *Server) writeMarks(ctx context.Context, ready []wire.Cursors) {
	if len(ready) == 0 {
		return
	}
	parts := map[im.Partition][]wire.Cursors{}
	for _, c := range ready {
		p := im.Partition{Topic: im.ReadTopic(s.cfg.Origin), Number: s.number(c.Conversation)}
		parts[p] = append(parts[p], c)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AppendTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for p, cursors := range parts {
		wg.Go(func() {
			entries := make([]im.Entry, len(cursors))
			for i, c := range cursors {
				stamp, err := s.stamp(0)
				if err != nil { // cannot be: nothing seen is ahead of nothing
					return
				}
				entries[i] = wire.EncodeCursors(c, s.cfg.Origin, stamp)
			}
			if _, err := s.deps.Log.Append(ctx, p, entries); err != nil {
				s.deps.Logger.Warn("cursors were not written and are held", "partition", p, "cursors", len(cursors), "error", err)
				for _, c := range cursors {
					s.marks.add(markKey{c.Conversation, c.UID}, c.Delivered, c.Read)
				}
			}
		})
	}
	wg.Wait()
}
