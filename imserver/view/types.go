package view

import (
	"errors"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// ErrFenced means that a part's From is not where the view is: another owner applied it, and everything the caller
// remembers of the view may be stale.
var ErrFenced = errors.New("fenced: the position moved under another owner")

// Position is how far a view is in one partition.
type Position struct {
	im.Position
	Generation uint32   // the link generation of what was applied
	Watermark  im.Stamp // the origin's clock at its last heartbeat applied
	Checksum   uint32   // of record Next-1: the low half of wire.Checksum; 0: not known
}

// Record is a record of a conversation as applied: its place is complete.
type Record struct {
	im.Record
	Offset int64 // in the origin's log
	Opaque bool  // the value did not decode: Body is the whole value, Sender and ClientID are empty, and it has no id
	Shown  bool  // this build knows kind and version and can decode the body; not part of what must be equal everywhere
}

// Part is what one partition adds to a view. Parts are applied together or not at all.
type Part struct {
	Partition im.Partition
	From      int64    // the view's Next before; anything else is fenced
	To        Position // after
	Records   []Record // in log order
	Cursors   []wire.Cursors
}

// HeadKey names one origin's stream of records in a conversation. Its head is the last seq.
type HeadKey struct {
	Conversation im.Conversation
	Origin       im.Origin
}

// Stream names the stream that a record is of.
func (r *Record) Stream() HeadKey { return HeadKey{r.Conversation, r.Place.Origin} }

// Ask is what an owner asks of the stored view before it numbers a batch.
type Ask struct {
	Heads      []HeadKey
	Groups     []im.Conversation
	Partitions []im.Partition
}

// Facts are the answer, all of one moment. What the view does not have is missing.
//
// Next lets an owner tell whether heads and groups are of the position that it reads on from: had another owner moved
// it, numbering from these heads would deliver wrong seqs, even though the commit would be fenced.
type Facts struct {
	Heads  map[HeadKey]uint64
	Groups map[im.Conversation]*Group
	Next   map[im.Partition]int64
}

// Found is where a record is.
type Found struct {
	Place  im.Place
	Offset int64 // in the origin's log
}

// PullQuery asks for what a cursor does not cover.
type PullQuery struct {
	UID          im.UID
	Conversation im.Conversation
	Cursor       im.Cursor
	Upto         im.Cursor // nothing beyond it; nil: everything
	Limit        int       // records and repeats at most, from 1
	Bytes        int       // of bodies at most, beyond the first record; 0: no limit
}

// Page is a pull's answer.
type Page struct {
	Records []im.Record // visible ones, each at its id's lowest place
	Repeats []im.Record // further records of ids: their body is left out
	Cursor  im.Cursor   // covers the query's cursor, the page, and what is hidden from the caller
	More    bool
}

// ListQuery asks for the conversations of a user that changed.
type ListQuery struct {
	UID    im.UID
	Cursor im.ListCursor // of the last answer: rows that changed at or past these offsets are new
	Limit  int           // rows at most, from 1
}

// ListPage is a list's answer.
type ListPage struct {
	Rows   []ListRow
	Groups []im.Conversation // that the user is in now, whether they have a row in this page or not
	Cursor im.ListCursor     // covers the rows and everything before
	More   bool
}

// ListRow is one conversation in a user's list.
type ListRow struct {
	Conversation    im.Conversation
	Title           string
	Member          bool
	Head            im.Cursor  // everything the view holds of it; nil for one who is no member
	Last            *im.Record // the visible message with the highest place
	Unread          int        // to UnreadLimit
	Delivered, Read im.Cursor  // the user's own
}

// UnreadLimit is where counting unread messages stops.
const UnreadLimit = 100

// Receipt is how far one user is in a conversation.
type Receipt struct {
	UID             im.UID
	Delivered, Read im.Cursor
}
