package accept

import (
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxMarks bounds the users and conversations whose cursors are held back at once.
const maxMarks = 100_000

// MarkKey names one user's cursors of one conversation.
type MarkKey struct {
	Conversation im.Conversation
	UID          im.UID
}

// marked is what is held back of one user's cursors of one conversation, since its last record.
type marked struct {
	delivered, read im.Cursor
	pending         bool
}

// Marks hold cursors back so that a user who reads along makes at most one record a second and conversation. What is
// held back is lost with the process; clients repeat their cursors.
type Marks struct {
	mu    sync.Mutex
	held  map[MarkKey]*marked
	soon  []MarkKey     // due at once
	due   []dueMark     // in time order: every entry waits equally long
	fresh chan struct{} // soon is not empty
}

type dueMark struct {
	key MarkKey
	at  time.Time
}

// NewMarks returns none.
func NewMarks() *Marks {
	return &Marks{held: map[MarkKey]*marked{}, fresh: make(chan struct{}, 1)}
}

// Add merges cursors into what is held. false: too much is held already.
func (m *Marks) Add(k MarkKey, delivered, read im.Cursor) bool {
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

// Take returns what is due (all of it, if ending), and when to look again. Each key then waits for the interval; one
// that has nothing new by then is forgotten.
func (m *Marks) Take(now time.Time, interval time.Duration, all bool) (ready []wire.Cursors, next time.Duration) {
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
		ready = append(ready, wire.Cursors{Conversation: k.Conversation, UID: k.UID, Delivered: held.delivered, Read: held.read})
		held.pending = false
	}
	for _, c := range ready {
		m.due = append(m.due, dueMark{MarkKey{c.Conversation, c.UID}, now.Add(interval)})
	}
	if len(m.due) == 0 {
		return ready, time.Hour
	}
	return ready, max(0, m.due[0].at.Sub(now))
}

// Fresh tells, by a receive, that something new is due at once.
func (m *Marks) Fresh() <-chan struct{} { return m.fresh }
