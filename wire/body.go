package wire

import (
	"encoding/binary"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// ErrorFrame returns an error as frames and replies carry it. An error without a code becomes "internal" and its text is
// kept from the client.
func ErrorFrame(err error) *Error {
	code := im.CodeOf(err)
	e := &Error{Code: string(code), Action: string(code.Spec().Action)}
	if known, ok := asError(err); ok {
		e.Detail = strings.ToValidUTF8(known.Detail, "?") // it may quote what a client sent
		e.RetryAfterMs = uint32(known.RetryAfter.Milliseconds())
	}
	return e
}

// SubmitContent returns the kind of a submit's content and its encoded body.
func SubmitContent(r *SubmitRequest) (im.Kind, []byte, error) {
	var kind im.Kind
	var m proto.Message
	switch c := r.Content.(type) {
	case *SubmitText:
		kind, m = im.KindMessage, c.Text
	case *SubmitCreate:
		kind, m = im.KindCreate, c.Create
	case *SubmitMember:
		kind, m = im.KindMember, c.Member
	case *SubmitSettings:
		kind, m = im.KindSettings, c.Settings
	default:
		return "", nil, im.Errorf(im.CodeBadRequest, "submit has no content: set text, create, member or settings")
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return "", nil, im.Errorf(im.CodeBadText, "the content is not valid UTF-8")
	}
	return kind, body, nil
}

// Fields of antipode.v1.Record's content by kind; a test holds them to the schema.
var contentField = map[im.Kind]protowire.Number{im.KindMessage: 9, im.KindCreate: 10, im.KindMember: 11, im.KindSettings: 12}

// AppendRecordEvent appends the encoded Event of an applied record, pushed by region from. The body is spliced in as it
// stands in the log: nothing decodes it on the way.
func AppendRecordEvent(b []byte, r *im.Record, from im.Region) []byte {
	var most [512]byte // of most records; more goes to the heap
	record := AppendRecord(most[:0], r)
	b = slices.Grow(b, len(record)+len(from)+2*(1+binary.MaxVarintLen32))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, record)
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	return protowire.AppendString(b, string(from))
}

// AppendRecord appends the encoded Record of an applied record.
func AppendRecord(b []byte, r *im.Record) []byte {
	b = appendRecordHead(b, r)
	if n, ok := contentField[r.Kind]; ok && r.Known() {
		b = protowire.AppendTag(b, n, protowire.BytesType)
		b = protowire.AppendBytes(b, r.Body)
	}
	return b
}

// RecordOf returns the Record of an applied record. A body that does not decode is left out: shown to no one.
func RecordOf(r *im.Record) *Record {
	m := recordHead(r)
	if !r.Known() {
		return m
	}
	switch r.Kind {
	case im.KindMessage:
		if t := new(Text); proto.Unmarshal(r.Body, t) == nil {
			m.Content = &RecordText{Text: t}
		}
	case im.KindCreate:
		if t := new(Create); proto.Unmarshal(r.Body, t) == nil {
			m.Content = &RecordCreate{Create: t}
		}
	case im.KindMember:
		if t := new(Member); proto.Unmarshal(r.Body, t) == nil {
			m.Content = &RecordMember{Member: t}
		}
	case im.KindSettings:
		if t := new(Settings); proto.Unmarshal(r.Body, t) == nil {
			m.Content = &RecordSettings{Settings: t}
		}
	}
	return m
}

func recordHead(r *im.Record) *antipodev1.Record {
	return &antipodev1.Record{
		Conversation: string(r.Conversation), Kind: string(r.Kind), Version: r.Version,
		Sender: string(r.Sender), ClientId: r.ClientID.String(),
		Stamp: uint64(r.Place.Stamp), Origin: string(r.Place.Origin), Seq: r.Place.Seq, Trace: r.Trace,
	}
}

// RecordID returns the id of a record that came over the wire.
func RecordID(r *Record) (im.ID, error) { return id(r.Conversation, r.Sender, r.ClientId) }

// RecordPlace returns its place.
func RecordPlace(r *Record) im.Place {
	return im.Place{Stamp: im.Stamp(r.Stamp), Origin: im.Origin(r.Origin), Seq: r.Seq}
}

func id(conversation, sender, clientID string) (im.ID, error) {
	c, err := im.ParseConversation(conversation)
	if err != nil {
		return im.ID{}, im.Errorf(im.CodeBadConversation, "%v", err)
	}
	u, err := im.ParseUUID(clientID)
	if err != nil {
		return im.ID{}, im.Errorf(im.CodeBadClientID, "%v", err)
	}
	return im.ID{Conversation: c, Sender: im.UID(sender), ClientID: u}, nil
}

// EncodeReceiptEvent returns the encoded Event of a user's cursors, pushed by region from.
func EncodeReceiptEvent(c Cursors, from im.Region) []byte {
	b, err := proto.Marshal(&Event{From: string(from), Event: &EventReceipt{Receipt: ReceiptOf(c)}})
	if err != nil { // only strings that are not UTF-8 can fail, and these were parsed
		panic("wire: receipt event: " + err.Error())
	}
	return b
}

// EncodeTypingEvent returns the encoded Event of a user who types or stopped, pushed by region from.
func EncodeTypingEvent(c im.Conversation, uid im.UID, stopped bool, from im.Region) []byte {
	b, err := proto.Marshal(&Event{From: string(from), Event: &EventTyping{Typing: &Typing{
		Conversation: string(c), Uid: string(uid), Stopped: stopped,
	}}})
	if err != nil { // only strings that are not UTF-8 can fail, and these were parsed
		panic("wire: typing event: " + err.Error())
	}
	return b
}

// ReceiptOf returns a user's cursors as a Receipt.
func ReceiptOf(c Cursors) *Receipt {
	return &Receipt{
		Conversation: string(c.Conversation), Uid: string(c.UID),
		Delivered: c.Delivered.String(), Read: c.Read.String(),
	}
}

// Marshal encodes a body of the service "im".
func Marshal(m proto.Message) ([]byte, error) { return proto.Marshal(m) }

// Unmarshal decodes one; a body that does not decode is a bad_request.
func Unmarshal(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return im.Errorf(im.CodeBadRequest, "%s does not decode: %v", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}
