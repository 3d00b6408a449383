package timeline

import (
	"fmt"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Message is one visible record of a conversation. Its ID names it for good; its place may only become lower.
type Message struct {
	im.ID
	Kind  im.Kind
	Place im.Place
	Trace string // W3C traceparent of the submit, or empty

	// By kind, one of:
	Text     string         // message
	Create   *wire.Create   // create
	Member   *wire.Member   // member
	Settings *wire.Settings // settings
}

// messageOf reads a record of a conversation. shown is false for one that counts its seq but shows nothing: its kind or version is newer
// than the server or this build knows.
func messageOf(r *wire.Record, of im.Conversation) (m Message, shown bool, err error) {
	place := wire.RecordPlace(r)
	if err := checkPlace(place); err != nil {
		return Message{}, false, err
	}
	m = Message{Kind: im.Kind(r.Kind), Place: place, Trace: r.Trace}
	switch c := r.Content.(type) {
	case *wire.RecordText:
		m.Text, shown = c.Text.GetText(), c.Text != nil
	case *wire.RecordCreate:
		m.Create, shown = c.Create, c.Create != nil
	case *wire.RecordMember:
		m.Member, shown = c.Member, c.Member != nil
	case *wire.RecordSettings:
		m.Settings, shown = c.Settings, c.Settings != nil
	}
	if !shown || r.Version > im.CurrentVersion {
		return m, false, nil
	}
	client, err := im.ParseUUID(r.ClientId)
	if err != nil {
		return Message{}, false, im.Errorf(im.CodeBadClientID, "%v", err)
	}
	m.ID = im.ID{Conversation: of, Sender: im.UID(r.Sender), ClientID: client}
	return m, true, nil
}

func checkPlace(p im.Place) error {
	if _, err := im.ParseOrigin(string(p.Origin)); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if p.Seq == 0 {
		return fmt.Errorf("record of %s: seq is 0", p.Origin)
	}
	return nil
}
