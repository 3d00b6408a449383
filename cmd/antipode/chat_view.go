package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
)

// chatView is what a chat shows: the messages of one conversation in place order, how far its members are, what is on its
// way, and who serves us. It is safe for concurrent use.
type chatView struct {
	client       *client.Client
	me           im.UID
	conversation im.Conversation

	mu       sync.Mutex
	status   string
	messages []client.Message
	receipts map[im.UID]client.Receipt
	others   []im.UID // members but me, as far as they are known
	pending  []*sending
	notices  []string // the last few things that are no messages
}

// sending is a text that is not acked yet, or was refused.
type sending struct {
	text string
	err  error
}

func newChatView(c *client.Client, me im.UID, conversation im.Conversation) *chatView {
	v := &chatView{client: c, me: me, conversation: conversation, receipts: map[im.UID]client.Receipt{}, status: "connecting"}
	for _, m := range conversation.Members() {
		if m != me {
			v.others = append(v.others, m)
		}
	}
	return v
}

// take takes an event in, and returns what a plain output prints for it.
func (v *chatView) take(e client.Event) (lines []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e := e.(type) {
	case client.Inserted:
		if e.Conversation != v.conversation {
			return nil
		}
		late := e.Index < len(v.messages)
		v.messages = slices.Insert(v.messages, e.Index, e.Message)
		line := v.line(e.Message)
		if late {
			line += "   (late: its place is further up)"
		}
		v.client.Read(v.conversation)
		return []string{line}
	case client.Moved:
		if e.Conversation == v.conversation {
			v.messages = slices.Delete(v.messages, e.From, e.From+1)
			v.messages = slices.Insert(v.messages, e.Index, e.Message)
		}
	case client.Trimmed:
		if e.Conversation == v.conversation {
			v.messages = slices.Delete(v.messages, 0, e.Count)
		}
	case client.Receipt:
		if e.Conversation == v.conversation {
			v.receipt(e)
		}
	case client.Connected:
		v.status = fmt.Sprintf("%s in %s", e.Gateway, e.Region)
		verb := "connected to"
		if e.Resumed {
			verb = "resumed on"
		}
		return v.notice("%s gateway %s in region %s (%d ms)", verb, e.Gateway, e.Region, e.Took.Milliseconds())
	case client.Disconnected:
		v.status = "reconnecting"
		return v.notice("lost gateway %s in region %s (%v); reconnecting", e.Gateway, e.Region, e.Err)
	case client.Stopped:
		v.status = "stopped"
		return v.notice("stopped: %v", e.Err)
	}
	return nil
}

func (v *chatView) notice(format string, args ...any) []string {
	line := "· " + clean(fmt.Sprintf(format, args...))
	v.notices = append(v.notices, line)
	if len(v.notices) > 3 {
		v.notices = v.notices[1:]
	}
	return []string{line}
}

// receipt merges how far a member is: it only grows.
func (v *chatView) receipt(r client.Receipt) {
	if r.UID == v.me {
		return
	}
	old := v.receipts[r.UID]
	old.Delivered, old.Read = old.Delivered.Merge(r.Delivered), old.Read.Merge(r.Read)
	v.receipts[r.UID] = old
	if !slices.Contains(v.others, r.UID) {
		v.others = append(v.others, r.UID)
	}
}

// know sets what was asked for: members and receipts.
func (v *chatView) know(members []im.UID, receipts []client.Receipt) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(members) > 0 {
		v.others = slices.DeleteFunc(slices.Clone(members), func(m im.UID) bool { return m == v.me })
	}
	for _, r := range receipts {
		if slices.Contains(v.others, r.UID) {
			v.receipt(r)
		}
	}
}

// send shows a text as under way; settle takes it away, or shows why it was refused.
func (v *chatView) send(text string) *sending {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := &sending{text: text}
	v.pending = append(v.pending, s)
	return s
}

func (v *chatView) settle(s *sending, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		s.err = err
		return
	}
	v.pending = slices.DeleteFunc(v.pending, func(p *sending) bool { return p == s })
}

// line shows one message: time, origin region, sender, what it says, and for own ones how far it is.
func (v *chatView) line(m client.Message) string {
	line := fmt.Sprintf("%s %-4s %s: %s", m.Place.Stamp.Time().Local().Format("15:04:05"), m.Place.Origin.Region(), m.Sender, saying(m))
	if m.Sender == v.me {
		line += "  " + v.ticks(m)
	}
	return line
}

// ticks says how far an own message is.
func (v *chatView) ticks(m client.Message) string {
	delivered, read := 0, 0
	for _, o := range v.others {
		r := v.receipts[o]
		switch {
		case r.Read.Covers(m.Place.Origin, m.Place.Seq):
			read++
			delivered++
		case r.Delivered.Covers(m.Place.Origin, m.Place.Seq):
			delivered++
		}
	}
	n := len(v.others)
	switch {
	case n == 0 || delivered == 0:
		return "✓"
	case read == n:
		return "✓✓ read"
	case read > 0:
		return fmt.Sprintf("✓✓ read %d/%d", read, n)
	case delivered == n:
		return "✓✓"
	}
	return fmt.Sprintf("✓✓ %d/%d", delivered, n)
}

// saying is a message in words, without anything that a terminal would obey.
func saying(m client.Message) string {
	switch m.Kind {
	case im.KindMessage:
		return clean(m.Text)
	case im.KindCreate:
		return clean(fmt.Sprintf("— created %q with %s", m.Create.GetTitle(), strings.Join(m.Create.GetMembers(), ", ")))
	case im.KindMember:
		var parts []string
		if added := m.Member.GetAdd(); len(added) > 0 {
			parts = append(parts, "added "+strings.Join(added, ", "))
		}
		if removed := m.Member.GetRemove(); len(removed) > 0 {
			parts = append(parts, "removed "+strings.Join(removed, ", "))
		}
		return clean("— " + strings.Join(parts, "; "))
	case im.KindSettings:
		return clean(fmt.Sprintf("— named it %q", m.Settings.GetTitle()))
	}
	return "— " + clean(string(m.Kind))
}

// clean replaces what a terminal would obey, or what would turn a line around.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), !unicode.IsPrint(r) && !unicode.Is(unicode.Mn, r) && r != '\u200d':
			return '·'
		}
		return r
	}, s)
}

// screen is what fits: the newest lines, wrapped, at most height of them, and the status line.
func (v *chatView) screen(width, height int) (lines []string, status string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	tail := len(v.messages) - height
	for _, m := range v.messages[max(tail, 0):] {
		lines = append(lines, wrap(v.line(m), width)...)
	}
	for _, s := range v.pending {
		line := fmt.Sprintf("%8s %-4s %s: %s", "…", "", v.me, clean(s.text))
		if s.err != nil {
			line += "  ✗ " + clean(s.err.Error())
		}
		lines = append(lines, wrap(line, width)...)
	}
	for _, n := range v.notices {
		lines = append(lines, wrap(n, width)...)
	}
	if over := len(lines) - height; over > 0 {
		lines = lines[over:]
	}
	with := string(v.conversation)
	if len(v.others) > 0 {
		names := slices.Sorted(slices.Values(v.others))
		with = fmt.Sprint(names[0])
		for _, n := range names[1:] {
			with += ", " + string(n)
		}
	}
	status = fmt.Sprintf("%s with %s · %s", v.me, with, v.status)
	if origins := v.origins(); origins != "" {
		status += " · from " + origins
	}
	return lines, wrap(status, width)[0]
}

// origins counts the messages by the region that accepted them.
func (v *chatView) origins() string {
	counts := map[im.Region]int{}
	for _, m := range v.messages {
		counts[m.Place.Origin.Region()]++
	}
	var parts []string
	for _, r := range slices.SortedFunc(maps.Keys(counts), func(a, b im.Region) int { return cmp.Compare(a, b) }) {
		parts = append(parts, fmt.Sprintf("%s %d", r, counts[r]))
	}
	return strings.Join(parts, ", ")
}

// wrap cuts a line into pieces of a width, counted in runes.
func wrap(line string, width int) []string {
	runes := []rune(line)
	if width < 8 || len(runes) <= width {
		return []string{line}
	}
	pieces := []string{string(runes[:width])}
	for rest := runes[width:]; len(rest) > 0; {
		n := min(len(rest), width-2)
		pieces = append(pieces, "  "+string(rest[:n]))
		rest = rest[n:]
	}
	return pieces
}
