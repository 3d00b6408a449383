package wire

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// The messages of a link between two replicators.
type (
	LinkRequest        = antipodev1.LinkRequest
	LinkOpen           = antipodev1.LinkOpen
	LinkPartition      = antipodev1.LinkPartition
	LinkHeld           = antipodev1.LinkHeld
	LinkOffset         = antipodev1.LinkOffset
	LinkCredit         = antipodev1.LinkCredit
	LinkSeek           = antipodev1.LinkSeek
	LinkResponse       = antipodev1.LinkResponse
	LinkOpened         = antipodev1.LinkOpened
	LinkPartitionState = antipodev1.LinkPartitionState
	LinkBatch          = antipodev1.LinkBatch
	LinkBatches        = antipodev1.LinkBatches
	LinkTrace          = antipodev1.LinkTrace
	LinkStatus         = antipodev1.LinkStatus
	LinkNews           = antipodev1.LinkNews
	LinkRefusals       = antipodev1.LinkRefusals
	LinkRefusal        = antipodev1.LinkRefusal
	LinkRelayed        = antipodev1.LinkRelayed
	NotifyRequest      = antipodev1.NotifyRequest
)

// The kinds of a link's messages (their oneofs).
type (
	LinkRequestOpen     = antipodev1.LinkRequest_Open
	LinkRequestHeld     = antipodev1.LinkRequest_Held
	LinkRequestCredit   = antipodev1.LinkRequest_Credit
	LinkRequestSeek     = antipodev1.LinkRequest_Seek
	LinkResponseOpened  = antipodev1.LinkResponse_Opened
	LinkResponseBatch   = antipodev1.LinkResponse_Batch
	LinkResponseBatches = antipodev1.LinkResponse_Batches
	LinkResponseNotify  = antipodev1.LinkResponse_Notify
	LinkResponseStatus  = antipodev1.LinkResponse_Status
)

// PackedVersion is the version of packed batches that this build sends and takes.
const PackedVersion = 1

// LinkPause as the offset of a LinkSeek asks the sender to stop shipping the partition until the next seek: the receiver
// cannot append to it at present, and the others are to have the window.
const LinkPause = -1

// LinkReceiver is a receiver's end of an open link. Send and Recv may run at the same time, each from one goroutine.
type LinkReceiver interface {
	Send(*LinkRequest) error
	Recv() (*LinkResponse, error)
	Close() // drops the link; Send and Recv then fail
}

// LinkSender is a sender's end of an open link, under the same rules.
type LinkSender interface {
	Send(*LinkResponse) error
	Recv() (*LinkRequest, error)
}

// Fields of antipode.v1.LinkEntry and LinkHeader; a test holds them to the schema.
const (
	linkEntryKey     protowire.Number = 1
	linkEntryValue   protowire.Number = 2
	linkEntryHeaders protowire.Number = 3
	linkHeaderKey    protowire.Number = 1
	linkHeaderValue  protowire.Number = 2
)

// AppendLinkEntry appends one entry of a LinkBatch: a LinkEntry behind its length. Only what ships unchanged goes in;
// the headers of a copy stay behind.
func AppendLinkEntry(b []byte, e *im.Entry) []byte {
	size := 0
	if e.Key != nil {
		size += protowire.SizeTag(linkEntryKey) + protowire.SizeBytes(len(e.Key))
	}
	size += protowire.SizeTag(linkEntryValue) + protowire.SizeBytes(len(e.Value))
	for i := range e.Headers {
		if h := &e.Headers[i]; !copyHeader(h.Key) {
			size += protowire.SizeTag(linkEntryHeaders) + protowire.SizeBytes(sizeLinkHeader(h))
		}
	}
	b = protowire.AppendVarint(b, uint64(size))
	if e.Key != nil {
		b = protowire.AppendTag(b, linkEntryKey, protowire.BytesType)
		b = protowire.AppendBytes(b, e.Key)
	}
	b = protowire.AppendTag(b, linkEntryValue, protowire.BytesType)
	b = protowire.AppendBytes(b, e.Value)
	for i := range e.Headers {
		h := &e.Headers[i]
		if copyHeader(h.Key) {
			continue
		}
		b = protowire.AppendTag(b, linkEntryHeaders, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeLinkHeader(h)))
		b = protowire.AppendTag(b, linkHeaderKey, protowire.BytesType)
		b = protowire.AppendString(b, h.Key)
		b = protowire.AppendTag(b, linkHeaderValue, protowire.BytesType)
		b = protowire.AppendBytes(b, h.Value)
	}
	return b
}

func sizeLinkHeader(h *im.Header) int {
	return protowire.SizeTag(linkHeaderKey) + protowire.SizeBytes(len(h.Key)) +
		protowire.SizeTag(linkHeaderValue) + protowire.SizeBytes(len(h.Value))
}

// LinkEntrySize is an upper bound of what AppendLinkEntry appends, in bytes.
func LinkEntrySize(e *im.Entry) int {
	size := 32 + len(e.Key) + len(e.Value)
	for i := range e.Headers {
		size += 16 + len(e.Headers[i].Key) + len(e.Headers[i].Value)
	}
	return size
}

// DecodeLinkEntries reads the count entries of a batch whose first record has the given origin offset. The entries share
// b, which must not change afterwards. Their offsets are the origin's.
func DecodeLinkEntries(b []byte, p im.Partition, first int64, count int) ([]im.Entry, error) {
	if count < 0 || count > len(b) { // an entry takes a byte at least
		return nil, fmt.Errorf("%v: a batch of %d bytes cannot hold %d entries", p, len(b), count)
	}
	entries := make([]im.Entry, 0, count)
	for i := range count {
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return nil, fmt.Errorf("%v: entry %d of %d in the batch at %d: %w", p, i, count, first, protowire.ParseError(n))
		}
		b = b[n:]
		e := im.Entry{Partition: p, Offset: first + int64(i)}
		if err := decodeLinkEntry(v, &e); err != nil {
			return nil, fmt.Errorf("%v: entry %d of %d in the batch at %d: %w", p, i, count, first, err)
		}
		entries = append(entries, e)
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%v: %d bytes after the last of %d entries in the batch at %d", p, len(b), count, first)
	}
	return entries, nil
}

func decodeLinkEntry(b []byte, e *im.Entry) error {
	e.Headers = make([]im.Header, 0, 8) // room for the two of a copy
	return fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case linkEntryKey:
			e.Key = v
		case linkEntryValue:
			e.Value = v
		case linkEntryHeaders:
			var h im.Header
			err := fields(v, func(num protowire.Number, v []byte) error {
				switch num {
				case linkHeaderKey:
					h.Key = headerName(v)
				case linkHeaderValue:
					h.Value = v
				}
				return nil
			})
			if err != nil {
				return err
			}
			e.Headers = append(e.Headers, h)
		}
		return nil
	})
}

// headerName spares an allocation for the names that every entry has.
func headerName(b []byte) string {
	switch string(b) {
	case headConversation:
		return headConversation
	case headKind:
		return headKind
	case headVersion:
		return headVersion
	case headOrigin:
		return headOrigin
	case headStamp:
		return headStamp
	case headTrace:
		return headTrace
	}
	return string(b)
}

// fields calls f with each length-delimited field of a message and passes over the others.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}

// ShipHead is what a replicator looks at: it ships records without knowing what they say.
type ShipHead struct {
	Kind         im.Kind
	Stamp        im.Stamp
	Trace        string
	OriginOffset int64  // in the origin's log; the entry's own offset where it is no copy
	Generation   uint32 // link generation; 0 in the origin's own log
}

// Marker tells whether the entry is a marker of its copy. A record that calls itself one is none: it has an offset.
func (h *ShipHead) Marker() bool { return h.Kind == im.KindHold && h.OriginOffset < 0 }

// DecodeShipHead reads only the headers that shipping needs, so that a link costs little for each record.
func DecodeShipHead(e *im.Entry) ShipHead {
	h := ShipHead{OriginOffset: e.Offset}
	for i := range e.Headers {
		v := e.Headers[i].Value
		switch e.Headers[i].Key {
		case headKind:
			h.Kind = kindOf(v)
		case headStamp:
			if len(v) == 8 {
				h.Stamp = im.Stamp(binary.BigEndian.Uint64(v))
			}
		case headTrace:
			h.Trace = string(v)
		case headOriginOffset:
			if len(v) == 8 {
				h.OriginOffset = int64(binary.BigEndian.Uint64(v))
			}
		case headGeneration:
			if len(v) == 4 {
				h.Generation = binary.BigEndian.Uint32(v)
			}
		}
	}
	return h
}

// PackHead is what a sender looks at of a record's headers while it packs them.
type PackHead struct {
	Names  bool   // the record names its log
	Copied bool   // it has the headers of a copy already
	Trace  []byte // W3C traceparent; it shares the header's memory
}

// See takes one header.
func (h *PackHead) See(key, value []byte) {
	if len(key) != 1 {
		return
	}
	switch key[0] {
	case headKind[0]:
		h.Names = string(value) == string(im.KindLog) || string(value) == string(im.KindHeartbeat)
	case headTrace[0]:
		h.Trace = value
	case headOriginOffset[0], headGeneration[0]:
		h.Copied = true
	}
}

// Sampled tells from the flags of the trace context whether the record is traced, without parsing the rest.
func (h *PackHead) Sampled() bool { return Sampled(h.Trace) }

// Sampled tells from a W3C traceparent's flags whether its trace is recorded.
func Sampled[T string | []byte](traceparent T) bool {
	if len(traceparent) != 55 {
		return false
	}
	switch c := traceparent[54]; {
	case c >= '0' && c <= '9':
		return (c-'0')&1 == 1
	case c >= 'a' && c <= 'f':
		return (c-'a')&1 == 1 // a is ten: even
	}
	return false
}

// IsCopyHeader tells whether a header is one of the two that a copy's records have beside those of the origin's.
func IsCopyHeader(key []byte) bool { return copyHeader(string(key)) }

// AppendCopyHeaders appends them as Kafka's record format has headers: name and value, each behind its length as a
// zigzag varint.
func AppendCopyHeaders(b []byte, originOffset int64, generation uint32) []byte {
	b = append(b, 2*1, headOriginOffset[0], 2*8)
	b = binary.BigEndian.AppendUint64(b, uint64(originOffset))
	b = append(b, 2*1, headGeneration[0], 2*4)
	return binary.BigEndian.AppendUint32(b, generation)
}

// SeeCopyHeader takes one header of a copy's record, and tells whether it says that the record names its log.
func SeeCopyHeader(h *im.CopyHead, key, value []byte) (names bool) {
	if len(key) != 1 {
		return false
	}
	switch key[0] {
	case headKind[0]:
		h.Kind = kindOf(value)
		return h.Kind == im.KindLog || h.Kind == im.KindHeartbeat
	case headStamp[0]:
		if len(value) == 8 {
			h.Stamp = im.Stamp(binary.BigEndian.Uint64(value))
		}
	case headOriginOffset[0]:
		if len(value) == 8 {
			h.Origin = int64(binary.BigEndian.Uint64(value))
		}
	case headGeneration[0]:
		if len(value) == 4 {
			h.Generation = binary.BigEndian.Uint32(value)
		}
	}
	return false
}

func kindOf(b []byte) im.Kind {
	switch string(b) {
	case string(im.KindMessage):
		return im.KindMessage
	case string(im.KindHeartbeat):
		return im.KindHeartbeat
	case string(im.KindClaim):
		return im.KindClaim
	case string(im.KindCursors):
		return im.KindCursors
	}
	return im.Kind(b)
}

// NotifyOf returns deliveries of one region for another as they travel on a link.
func NotifyOf(from, to im.Region, ds []im.Delivery) *NotifyRequest {
	r := &NotifyRequest{From: string(from), To: string(to), Deliveries: make([]*antipodev1.Delivery, len(ds))}
	for i := range ds {
		r.Deliveries[i] = DeliveryMessage(&ds[i])
	}
	return r
}

// DeliveryMessage is a delivery as it travels, on links and to routers.
func DeliveryMessage(d *im.Delivery) *antipodev1.Delivery {
	return &antipodev1.Delivery{
		Service: d.Service, Method: d.Method, Key: d.Key, Recipients: Texts(d.Recipients), Body: d.Body, Trace: d.Trace, Notify: d.Notify,
		Ephemeral: d.Ephemeral, Interest: InterestMessage(d.Interest), Join: Texts(d.Join),
	}
}

// DeliveriesOf returns the deliveries of a notify. Recipients that are neither uids nor groups are left out.
func DeliveriesOf(r *NotifyRequest) []im.Delivery {
	ds := make([]im.Delivery, 0, len(r.Deliveries))
	for _, d := range r.Deliveries {
		v := im.Delivery{
			Service: d.Service, Method: d.Method, Key: d.Key, Body: d.Body, Trace: d.Trace, Notify: d.Notify, Ephemeral: d.Ephemeral,
			Interest: InterestOf(d.Interest), Join: UIDs(d.Join),
			Recipients: make([]im.UID, 0, len(d.Recipients)),
		}
		for _, u := range d.Recipients {
			if uid, err := im.ParseUID(u); err == nil {
				v.Recipients = append(v.Recipients, uid)
			} else if c, err := im.ParseConversation(u); err == nil {
				v.Recipients = append(v.Recipients, im.InterestIn(c))
			}
		}
		ds = append(ds, v)
	}
	return ds
}
