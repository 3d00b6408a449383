package view

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// log is what a topic's name says, read once.
type log struct {
	partition im.Partition
	count     int // partitions of the topic
	family    im.Family
	origin    im.Origin
	lane      im.Lane // of messages; what follows the last dot
}

func newLog(p im.Partition, count int) (log, error) {
	family, origin, err := im.ParseTopic(p.Topic)
	return log{p, count, family, origin, im.Lane(p.Topic[strings.LastIndexByte(p.Topic, '.')+1:])}, err
}

// saying is what one entry of a log is to a view.
type saying uint8

const (
	nothing  saying = iota // it only moves the position
	naming                 // it names its log, and tells the origin's clock
	counting               // a record, which takes a seq
	marking                // a user's cursors
)

// says tells what an entry is. It must never change what takes a seq: every version of Antipode, at any time, numbers the
// same records.
func (l *log) says(h *wire.Head) saying {
	switch {
	case h.Conversation == "" && (h.Kind == im.KindLog || h.Kind == im.KindHeartbeat):
		return naming
	case l.family == im.FamilyMsg && l.belongs(h):
		return counting
	case l.family == im.FamilyRead && h.Kind == im.KindCursors && h.Version <= im.CurrentVersion && l.belongs(h):
		return marking
	}
	return nothing
}

// belongs tells whether the entry has a readable conversation and kind and stands in its conversation's own partition.
// Were it counted elsewhere, two partitions would number one stream, and seqs would depend on which was read first.
func (l *log) belongs(h *wire.Head) bool {
	if h.Conversation == "" || !readableKind(h.Kind) || wire.Partition(string(h.Conversation), l.count) != l.partition.Number {
		return false
	}
	return l.family != im.FamilyMsg || l.lane == h.Conversation.Lane()
}

// record appends a record, whether its value decodes or not.
func (l *log) record(to []Record, e *im.Entry, h *wire.Head) ([]Record, error) {
	to = append(to, Record{Offset: h.OriginOffset})
	r := &to[len(to)-1]
	var err error
	r.Record, err = wire.DecodeRecord(e, *h)
	r.Place.Stamp = readable(h.Stamp)
	r.Place.Origin = l.origin // the log's, whatever the header says
	r.Place.Seq = 0
	if !readableTrace(r.Trace) {
		r.Trace = ""
	}
	if err == nil {
		_, err = im.ParseUID(string(r.Sender))
	}
	if err != nil {
		r.Opaque, r.Sender, r.ClientID, r.Seen, r.Body = true, "", im.UUID{}, 0, e.Value
		return to, err
	}
	r.Shown = r.Known() && decodes(r.Kind, r.Body)
	return to, nil
}

// mark appends cursors if they decode.
func (l *log) mark(to []wire.Cursors, e *im.Entry, h *wire.Head) ([]wire.Cursors, error) {
	c, err := wire.DecodeCursors(e, *h)
	if err == nil {
		_, err = im.ParseUID(string(c.UID))
	}
	if err != nil {
		return to, err
	}
	return append(to, c), nil
}

// decodes tells whether this build can show the body.
func decodes(k im.Kind, body []byte) bool {
	switch k {
	case im.KindMessage:
		return wire.IsText(body)
	case im.KindCreate:
		return proto.Unmarshal(body, new(wire.Create)) == nil
	case im.KindMember:
		return proto.Unmarshal(body, new(wire.Member)) == nil
	case im.KindSettings:
		return proto.Unmarshal(body, new(wire.Settings)) == nil
	}
	return false
}

// readable returns a stamp that stores as a signed number can hold, 0 for one beyond (the year 4429).
func readable(s im.Stamp) im.Stamp {
	if s>>63 != 0 {
		return 0
	}
	return s
}

// readableKind: 1 to 32 of a-z, 0-9 and _. Any other header is malformed, and its record takes no seq.
func readableKind(k im.Kind) bool {
	if k == "" || len(k) > 32 {
		return false
	}
	for _, c := range []byte(k) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}

// readableTrace: up to 64 of the characters of a traceparent.
func readableTrace(t string) bool {
	if len(t) > 64 {
		return false
	}
	for _, c := range []byte(t) {
		if !(c >= 'a' && c <= 'f' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// Derive looks once more at a record that was stored raw. It tells whether this build can show it, where the one that applied
// it could not. One whose value did not decode stays as it is: it has no id.
func (r *Record) Derive() bool {
	if r.Shown || r.Opaque {
		return false
	}
	r.Shown = r.Known() && decodes(r.Kind, r.Body)
	return r.Shown
}
