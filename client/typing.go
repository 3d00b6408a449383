package client

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	// typingEvery is how often others are told at most that the user goes on typing.
	typingEvery = 3 * time.Second
	// typingLasts is how long who was said to type is believed to: one such word may be lost.
	typingLasts = 5 * time.Second
	// maxTyping bounds the conversations and users that are remembered at once.
	maxTyping = 256
)

// typing is what others were told of this user.
type typing struct {
	mu   sync.Mutex
	told map[im.Conversation]time.Time
}

// tell decides whether others are told now that the user types, or stopped.
func (t *typing) tell(c im.Conversation, stopped bool, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.told, func(_ im.Conversation, at time.Time) bool { return now.Sub(at) >= typingLasts })
	last, told := t.told[c]
	switch {
	case stopped && !told, !stopped && told && now.Sub(last) < typingEvery, !stopped && len(t.told) >= maxTyping:
		return false
	case stopped:
		delete(t.told, c)
	default:
		if t.told == nil {
			t.told = map[im.Conversation]time.Time{}
		}
		t.told[c] = now
	}
	return true
}

// Typing tells the others in a conversation that the user types, or with stopped not any more. It is to be called at every key: it
// tells at most every few seconds, and only while there is a connection. Nobody hears of it later, and nothing says who did.
// Sending a message needs no word of having stopped.
func (c *Client) Typing(conversation im.Conversation, stopped bool) {
	if conversation.Lane() == im.LaneSuper {
		return
	}
	c.mu.Lock()
	cur := c.cur
	c.mu.Unlock()
	if cur == nil || !c.typing.tell(conversation, stopped, time.Now()) {
		return
	}
	body, err := wire.Marshal(&wire.TypingRequest{Conversation: string(conversation), Stopped: stopped})
	if err != nil { // the conversation was never parsed
		return
	}
	cur.start(wire.MethodTyping, string(conversation), body, "", func([]byte, error) {})
}

// typist is a user in a conversation.
type typist struct {
	conversation im.Conversation
	uid          im.UID
}

// typists are the users who type now. Only the applier has them.
type typists struct {
	until map[typist]time.Time
	due   *time.Timer
}

func newTypists() *typists {
	t := &typists{until: map[typist]time.Time{}, due: time.NewTimer(time.Hour)}
	t.due.Stop()
	return t
}

func (t *typists) end() { t.due.Stop() }

// hear takes what a user says, and tells whether that is news.
func (t *typists) hear(said *wire.Typing, now time.Time) (Typing, bool) {
	conversation, err := im.ParseConversation(said.GetConversation())
	uid, errUID := im.ParseUID(said.GetUid())
	if err != nil || errUID != nil {
		return Typing{}, false
	}
	if said.Stopped {
		return t.stop(conversation, uid)
	}
	who := typist{conversation, uid}
	_, known := t.until[who]
	if !known && len(t.until) >= maxTyping {
		return Typing{}, false
	}
	t.until[who] = now.Add(typingLasts)
	t.wait(now)
	return Typing{Conversation: conversation, UID: uid}, !known
}

// stop forgets a user, and tells whether they typed.
func (t *typists) stop(c im.Conversation, uid im.UID) (Typing, bool) {
	who := typist{c, uid}
	_, known := t.until[who]
	delete(t.until, who)
	return Typing{Conversation: c, UID: uid, Stopped: true}, known
}

// expired forgets whom nothing was heard of for long.
func (t *typists) expired(now time.Time) (stopped []Typing) {
	for who, until := range t.until {
		if !now.Before(until) {
			stopped = append(stopped, Typing{who.conversation, who.uid, true})
			delete(t.until, who)
		}
	}
	t.wait(now)
	return stopped
}

// wait sets when somebody expires next.
func (t *typists) wait(now time.Time) {
	if len(t.until) == 0 {
		t.due.Stop()
		return
	}
	next := slices.MinFunc(slices.Collect(maps.Values(t.until)), time.Time.Compare)
	t.due.Reset(next.Sub(now))
}
