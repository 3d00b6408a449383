package timeline

import (
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
