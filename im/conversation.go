package im

import (
	"fmt"
	"strings"
)

// UID names a user: 1 to 64 of a-z, A-Z, 0-9, '.', '_', '@' and '-'. It never holds ':', which separates the parts of a
// conversation.
type UID string

// ParseUID checks the form of a uid.
func ParseUID(s string) (UID, error) {
	if s == "" || len(s) > 64 {
		return "", fmt.Errorf("uid %q: want 1 to 64 characters", s)
	}
	for _, c := range s {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '@' || c == '-'
		if !ok {
			return "", fmt.Errorf("uid %q: %q is not one of a-z, A-Z, 0-9, . _ @ and -", s, c)
		}
	}
	return UID(s), nil
}

// Lane is the part of a conversation's id that decides its fan-out, topics, workers and limits, so that a crowd cannot
// delay a direct message.
type Lane string

// The lanes. A user's own conversation (u:<uid>) travels in the direct lane.
const (
	LaneDirect Lane = "direct"
	LaneGroup  Lane = "group"
	LaneSuper  Lane = "super"
)

// Lanes lists every lane, in the order in which topics are named.
var Lanes = [...]Lane{LaneDirect, LaneGroup, LaneSuper}

// Conversation is the id of a conversation:
//
//	d:<uid>:<uid>          direct, the two uids sorted (equal for a note to oneself)
//	g:<origin>:<uuidv7>    a group, created in origin at the time in the uuid
//	s:<origin>:<uuidv7>    a super group
//	u:<uid>                a user's own settings, contacts, blocks
type Conversation string

// Direct returns the conversation of two users, in either order.
func Direct(a, b UID) Conversation {
	if b < a {
		a, b = b, a
	}
	return Conversation("d:" + string(a) + ":" + string(b))
}

// Group returns the id of a group created in origin.
func Group(o Origin, id UUID) Conversation {
	return Conversation("g:" + string(o) + ":" + id.String())
}

// ParseConversation checks the form of a conversation's id.
func ParseConversation(s string) (Conversation, error) {
	bad := func(why string) (Conversation, error) { return "", fmt.Errorf("conversation %q: %s", s, why) }
	kind, rest, ok := strings.Cut(s, ":")
	if !ok {
		return bad("want d:, g:, s: or u: in front")
	}
	switch kind {
	case "d":
		a, b, ok := strings.Cut(rest, ":")
		if !ok {
			return bad("want d:<uid>:<uid>")
		}
		if _, err := ParseUID(a); err != nil {
			return bad(err.Error())
		}
		if _, err := ParseUID(b); err != nil {
			return bad(err.Error())
		}
		if b < a {
			return bad("the two uids must be sorted")
		}
	case "g", "s":
		o, id, ok := strings.Cut(rest, ":")
		if !ok {
			return bad("want " + kind + ":<origin>:<uuid>")
		}
		if _, err := ParseOrigin(o); err != nil {
			return bad(err.Error())
		}
		u, err := ParseUUID(id)
		if err != nil {
			return bad(err.Error())
		}
		if !u.IsV7() {
			return bad("the uuid must be of version 7")
		}
	case "u":
		if _, err := ParseUID(rest); err != nil {
			return bad(err.Error())
		}
	default:
		return bad("want d:, g:, s: or u: in front")
	}
	return Conversation(s), nil
}

// Lane is the lane of the conversation. The id must be well formed; anything else reads as direct.
func (c Conversation) Lane() Lane {
	switch {
	case strings.HasPrefix(string(c), "g:"):
		return LaneGroup
	case strings.HasPrefix(string(c), "s:"):
		return LaneSuper
	default:
		return LaneDirect
	}
}

// Members returns the users a conversation names by itself: two of a direct one (one, for a note to oneself), the owner
// of a user's own, none of a group, whose members are records.
func (c Conversation) Members() []UID {
	a, b, ok := c.pair()
	switch {
	case !ok:
		return nil
	case a == b:
		return []UID{a}
	}
	return []UID{a, b}
}

// Names tells whether a user is among Members.
func (c Conversation) Names(uid UID) bool {
	a, b, ok := c.pair()
	return ok && (uid == a || uid == b)
}

// pair is the users that a conversation names, twice the same if there is only one; false of a group.
func (c Conversation) pair() (a, b UID, ok bool) {
	if len(c) < 2 || c[1] != ':' {
		return "", "", false
	}
	rest := UID(c[2:])
	switch c[0] {
	case 'd':
		i := strings.IndexByte(string(rest), ':')
		if i < 0 {
			return rest, "", true
		}
		return rest[:i], rest[i+1:], true
	case 'u':
		return rest, rest, true
	}
	return "", "", false
}

// Created returns the origin and the time (Unix ms) inside a group's id, by which a region tells a group that it has not
// heard of yet from one that does not exist. ok is false for conversations that are not groups.
func (c Conversation) Created() (o Origin, ms int64, ok bool) {
	kind, rest, _ := strings.Cut(string(c), ":")
	if kind != "g" && kind != "s" {
		return "", 0, false
	}
	origin, id, _ := strings.Cut(rest, ":")
	u, err := ParseUUID(id)
	if err != nil {
		return "", 0, false
	}
	return Origin(origin), u.Millis(), true
}
