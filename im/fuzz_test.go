package im_test

import (
	"testing"

	"github.com/antipode-im/antipode/im"
)

// FuzzTexts feeds every reader of a text form. None may panic, and whatever reads has exactly one text: the one read.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{
		"", "eu", "eu.2", "eu=1", "ap=3,eu.2=4", "msg.eu.direct/3=7", "msg.eu.direct/3=7,read.us/0=1", "msg.eu.2.super",
		"read.eu.2/15", "123/eu/4", "d:ann:bob", "u:ann", "g:eu:0190b5a0-0000-7000-8000-000000000000",
		"0190b5a0-0000-7000-8000-000000000000", "ann", "active", "d::", "g:", "=", "/", "eu=01", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		same := func(what, text string) {
			if text != s {
				t.Errorf("%s: %q reads, and is written %q", what, s, text)
			}
		}
		if c, err := im.ParseCursor(s); err == nil {
			same("cursor", c.String())
		} else if im.CodeOf(err) != im.CodeBadCursor {
			t.Errorf("cursor %q: %v has no code", s, err)
		}
		if c, err := im.ParseListCursor(s); err == nil {
			if back, err := im.ParseListCursor(c.String()); err != nil || back.String() != c.String() || len(s) != len(c.String()) {
				t.Errorf("list cursor %q is written %q, read as %v, %v", s, c, back, err)
			}
		} else if im.CodeOf(err) != im.CodeBadCursor {
			t.Errorf("list cursor %q: %v has no code", s, err)
		}
		if p, err := im.ParsePlace(s); err == nil {
			same("place", p.String())
		}
		if u, err := im.ParseUUID(s); err == nil {
			same("uuid", u.String())
		}
		if p, err := im.ParsePartition(s); err == nil {
			same("partition", p.String())
		}
		if o, err := im.ParseOrigin(s); err == nil {
			same("origin", string(im.NewOrigin(o.Region(), o.Epoch())))
		}
		if family, o, err := im.ParseTopic(s); err == nil {
			found := false
			for _, topic := range im.Topics(o) {
				found = found || topic == s
			}
			if !found {
				t.Errorf("topic %q reads as %s of %s, which has no such topic", s, family, o)
			}
		}
		if u, err := im.ParseUID(s); err == nil {
			same("uid", string(u))
			if _, err := im.ParseConversation(string(im.Direct(u, "bob"))); err != nil {
				t.Error(err)
			}
		}
		c, err := im.ParseConversation(s)
		if err != nil {
			c = im.Conversation(s) // not to be trusted, yet not to panic
		}
		_, members := c.Lane(), c.Members()
		o, _, group := c.Created()
		if err == nil {
			if group != (len(members) == 0) {
				t.Errorf("conversation %q: created in %q, members %v", s, o, members)
			}
			if _, err := im.ParseOrigin(string(o)); group && err != nil {
				t.Error(err)
			}
		}
	})
}
