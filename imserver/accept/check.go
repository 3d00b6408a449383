package accept

import (
	"slices"
	"time"
	"unicode/utf8"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Rules are what a region accepts by.
type Rules struct {
	Origin  im.Origin   // under which the region accepts
	Origins []im.Origin // whose groups may exist

	MaxText    int // bytes of a text
	MaxTitle   int // bytes of a title
	MaxMembers int // of a group, and of one record that adds or removes

	MaxSkew       time.Duration // of client_ids and groups' ids ahead of this clock
	MaxAge        time.Duration // of a client_id
	CreateWindow  time.Duration // for a group's create, from the time in its id on
	AppendTimeout time.Duration // for a submit to reach the log
}

// Submission is a submit that passed every check of form.
type Submission struct {
	Record im.Record // without stamp
	Global bool
	Create *wire.Create // nil: it creates nothing
	Member *wire.Member // nil: it adds or removes nobody
}

// Check looks at everything that can be judged from the request alone.
func (r *Rules) Check(c im.Call, q *wire.SubmitRequest, now time.Time) (*Submission, error) {
	conversation, err := Conversation(q.Conversation, c.Key)
	if err != nil {
		return nil, err
	}
	id, err := r.clientID(q.ClientId, now)
	if err != nil {
		return nil, err
	}
	sub := &Submission{Record: im.Record{
		ID: im.ID{Conversation: conversation, Sender: c.UID, ClientID: id}, Version: im.CurrentVersion,
		Place: im.Place{Origin: r.Origin},
	}}
	switch im.AckLevel(q.Ack) {
	case "", im.AckRegion:
	case im.AckGlobal:
		sub.Global = true
	default:
		return nil, im.Errorf(im.CodeBadRequest, "ack %q: want region or global", q.Ack)
	}
	group := conversation.Members() == nil
	switch content := q.Content.(type) {
	case *wire.SubmitText:
		limit := r.MaxText
		if c.MaxText > 0 {
			limit = min(limit, c.MaxText)
		}
		if err := checkText("text", content.Text.GetText(), limit); err != nil {
			return nil, err
		}
	case *wire.SubmitCreate:
		sub.Create = content.Create
		if err := checkText("title", content.Create.GetTitle(), r.MaxTitle); err != nil {
			return nil, err
		}
		if err := r.checkUIDs("members", content.Create.GetMembers()); err != nil {
			return nil, err
		}
		named := append([]string{string(c.UID)}, content.Create.GetMembers()...) // the creator is a member
		slices.Sort(named)
		if conversation.Lane() == im.LaneGroup && len(slices.Compact(named)) > r.MaxMembers {
			return nil, im.Errorf(im.CodeBadRequest, "a group has at most %d members", r.MaxMembers)
		}
	case *wire.SubmitMember:
		sub.Member = content.Member
		if len(content.Member.GetAdd())+len(content.Member.GetRemove()) == 0 {
			return nil, im.Errorf(im.CodeBadRequest, "member names nobody to add or remove")
		}
		for _, named := range [][]string{content.Member.GetAdd(), content.Member.GetRemove()} {
			if err := r.checkUIDs("member", named); err != nil {
				return nil, err
			}
		}
	case *wire.SubmitSettings:
		if err := checkText("title", content.Settings.GetTitle(), r.MaxTitle); err != nil {
			return nil, err
		}
	}
	if sub.Record.Kind, sub.Record.Body, err = wire.SubmitContent(q); err != nil {
		return nil, err
	}
	if sub.Record.Kind != im.KindMessage && !group {
		return nil, im.Errorf(im.CodeBadRequest, "only groups take %q; %q is none", sub.Record.Kind, conversation)
	}
	return sub, nil
}

// Conversation reads the name of a conversation. The key, if there is one, must be the same.
func Conversation(name, key string) (im.Conversation, error) {
	c, err := im.ParseConversation(name)
	if err != nil {
		return "", im.Errorf(im.CodeBadConversation, "%v", err)
	}
	if key != "" && key != name {
		return "", im.Errorf(im.CodeBadRequest, "the call's key %q is not its conversation %q", key, name)
	}
	return c, nil
}

func (r *Rules) clientID(text string, now time.Time) (im.UUID, error) {
	if text == "" {
		return im.UUID{}, im.Errorf(im.CodeBadClientID, "client_id is empty")
	}
	id, err := im.ParseUUID(text)
	if err != nil {
		return id, im.Errorf(im.CodeBadClientID, "%v", err)
	}
	if !id.IsV7() {
		return id, im.Errorf(im.CodeBadClientID, "client_id %s is no UUID of version 7", id)
	}
	ms := now.UnixMilli()
	switch made := id.Millis(); {
	case made < ms-r.MaxAge.Milliseconds():
		return id, im.Errorf(im.CodeBadClientID, "client_id %s is older than %v: take a new one and show the message as unsent", id, r.MaxAge)
	case made > ms+r.MaxSkew.Milliseconds():
		return id, im.Errorf(im.CodeBadClientID, "client_id %s is %d ms ahead of this region's clock; at most %d are allowed", id, made-ms, r.MaxSkew.Milliseconds())
	}
	return id, nil
}

func checkText(what, text string, limit int) error {
	switch {
	case text == "":
		return im.Errorf(im.CodeBadText, "the %s is empty", what)
	case len(text) > limit:
		return im.Errorf(im.CodeTextTooLong, "the %s has %d bytes; at most %d are allowed", what, len(text), limit)
	case !utf8.ValidString(text):
		return im.Errorf(im.CodeBadText, "the %s is not valid UTF-8", what)
	}
	return nil
}

func (r *Rules) checkUIDs(what string, names []string) error {
	if len(names) > r.MaxMembers {
		return im.Errorf(im.CodeBadRequest, "%s names %d users; at most %d are allowed", what, len(names), r.MaxMembers)
	}
	for _, name := range names {
		if _, err := im.ParseUID(name); err != nil {
			return im.Errorf(im.CodeBadRequest, "%s: %v", what, err)
		}
	}
	return nil
}
