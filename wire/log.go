package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// The headers of log entries. proto/antipode/v1/log.proto lists them.
const (
	headConversation = "c"
	headKind         = "k"
	headVersion      = "v"
	headOrigin       = "o"
	headStamp        = "s"
	headTrace        = "t"
	headOriginOffset = "n"
	headGeneration   = "g"
	headFormer       = "r"
)

// Partition is the number of the partition that a key belongs to: xxhash64(key) mod count, the same in every region and
// every implementation.
func Partition(key string, count int) int { return int(xxhash.Sum64String(key) % uint64(count)) }

// Head is what an entry's headers say, without decoding its value.
type Head struct {
	Conversation im.Conversation // empty for records that keep a log, and routes
	Kind         im.Kind
	Version      uint32
	Origin       im.Origin
	Stamp        im.Stamp
	Trace        string
	OriginOffset int64  // in the origin's log; the entry's own offset where it is no copy
	Generation   uint32 // link generation; 0 in the origin's own log
}

// DecodeHead reads an entry's headers. Headers it does not know are passed over. A malformed header leaves its field
// empty: a record without readable conversation and kind takes no seq, in every version.
func DecodeHead(e *im.Entry) Head {
	h := Head{OriginOffset: e.Offset}
	for i := range e.Headers {
		v := e.Headers[i].Value
		switch e.Headers[i].Key {
		case headConversation:
			if c, err := im.ParseConversation(string(v)); err == nil {
				h.Conversation = c
			}
		case headKind:
			h.Kind = kindOf(v)
		case headVersion:
			if n, err := strconv.ParseUint(string(v), 10, 32); err == nil {
				h.Version = uint32(n)
			}
		case headOrigin:
			if o, err := im.ParseOrigin(string(v)); err == nil {
				h.Origin = o
			}
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

func encode(key string, h Head, value proto.Message) im.Entry {
	b, err := proto.Marshal(value)
	if err != nil { // only a string that is not UTF-8 can fail, and every string that reaches here was parsed
		panic(fmt.Sprintf("wire: encode %s: %v", h.Kind, err))
	}
	return encodeRaw(key, h, b)
}

func encodeRaw(key string, h Head, value []byte) im.Entry {
	headers := make([]im.Header, 0, 6)
	if h.Conversation != "" {
		headers = append(headers, im.Header{Key: headConversation, Value: []byte(h.Conversation)})
	}
	headers = append(headers,
		im.Header{Key: headKind, Value: []byte(h.Kind)},
		im.Header{Key: headVersion, Value: strconv.AppendUint(nil, uint64(h.Version), 10)},
		im.Header{Key: headOrigin, Value: []byte(h.Origin)},
		im.Header{Key: headStamp, Value: binary.BigEndian.AppendUint64(nil, uint64(h.Stamp))})
	if h.Trace != "" {
		headers = append(headers, im.Header{Key: headTrace, Value: []byte(h.Trace)})
	}
	e := im.Entry{Value: value, Headers: headers}
	if key != "" {
		e.Key = []byte(key)
	}
	return e
}

func decode(e *im.Entry, value proto.Message) error {
	if err := proto.Unmarshal(e.Value, value); err != nil {
		return fmt.Errorf("%v at %d: value: %w", e.Partition, e.Offset, err)
	}
	return nil
}

// EncodeRecord returns a conversation's record as a log entry. Partition and offset are the caller's.
func EncodeRecord(r *im.Record) im.Entry {
	return encode(string(r.Conversation), Head{
		Conversation: r.Conversation, Kind: r.Kind, Version: r.Version,
		Origin: r.Place.Origin, Stamp: r.Place.Stamp, Trace: r.Trace,
	}, &antipodev1.LogRecord{
		Sender: string(r.Sender), ClientId: r.ClientID[:], Seen: uint64(r.Seen), Body: r.Body,
	})
}

// DecodeRecord reads a conversation's record, whose body shares the value's memory. A value that does not decode still
// yields the record's head: it takes its seq, is stored raw (Body is then the whole value) and is shown to no one.
func DecodeRecord(e *im.Entry, h Head) (im.Record, error) {
	r := im.Record{
		ID:   im.ID{Conversation: h.Conversation},
		Kind: h.Kind, Version: h.Version, Trace: h.Trace,
		Place: im.Place{Stamp: h.Stamp, Origin: h.Origin},
	}
	v, err := readLogRecord(e.Value)
	if err != nil {
		r.Body = e.Value
		return r, fmt.Errorf("%v at %d: value: %w", e.Partition, e.Offset, err)
	}
	r.Sender, r.Seen, r.Body = im.UID(v.sender), v.seen, v.body
	if len(v.clientID) != len(r.ClientID) {
		r.Body = e.Value
		return r, fmt.Errorf("%v at %d: client_id has %d bytes, want 16", e.Partition, e.Offset, len(v.clientID))
	}
	copy(r.ClientID[:], v.clientID)
	return r, nil
}

// EncodeLogName returns record 0 of a partition (kind log) or a heartbeat. The stamp is the origin's clock.
func EncodeLogName(k im.Kind, n im.LogName, s im.Stamp) im.Entry {
	return encode("", Head{Kind: k, Version: im.CurrentVersion, Origin: n.Origin, Stamp: s},
		&antipodev1.LogName{Origin: string(n.Origin), Id: n.ID[:]})
}

// DecodeLogName reads one.
func DecodeLogName(e *im.Entry) (im.LogName, error) {
	origin, id, err := readLogName(e.Value)
	if err != nil {
		return im.LogName{}, fmt.Errorf("%v at %d: value: %w", e.Partition, e.Offset, err)
	}
	o, err := im.ParseOrigin(string(origin))
	if err != nil {
		return im.LogName{}, fmt.Errorf("%v at %d: %w", e.Partition, e.Offset, err)
	}
	n := im.LogName{Origin: o}
	if len(id) != len(n.ID) {
		return im.LogName{}, fmt.Errorf("%v at %d: the log's id has %d bytes, want 16", e.Partition, e.Offset, len(id))
	}
	copy(n.ID[:], id)
	return n, nil
}

// EncodeHold returns a hold marker for a copy: it raises the link generation.
func EncodeHold(o im.Origin, generation uint32, s im.Stamp) im.Entry {
	e := encode("", Head{Kind: im.KindHold, Version: im.CurrentVersion, Origin: o, Stamp: s},
		&antipodev1.LogHold{Generation: generation})
	return AsCopy(e, im.HoldOffset, generation)
}

// EncodeSeal returns the final marker of a copy: nothing from the seal on is ever taken.
func EncodeSeal(o im.Origin, generation uint32, seal int64, s im.Stamp) im.Entry {
	e := encode("", Head{Kind: im.KindHold, Version: im.CurrentVersion, Origin: o, Stamp: s},
		&antipodev1.LogHold{Generation: generation, Final: true, Seal: seal})
	return AsCopy(e, im.SealOffset(seal), generation)
}

// Resubmitted returns an entry of an origin that was lost, from past its seal, as it is sent again under the next epoch of
// its region: sender, client_id, stamp and body stay, so it is the same record at another origin, and takes the place that
// its stamp gives it. Its place in the former log stays with it.
func Resubmitted(e im.Entry, next im.Origin) im.Entry {
	again := im.Entry{Key: e.Key, Value: e.Value, Headers: make([]im.Header, 0, len(e.Headers)+1)}
	for _, h := range e.Headers {
		switch {
		case h.Key == headOrigin:
			h.Value = []byte(next)
		case copyHeader(h.Key) || h.Key == headFormer:
			continue
		}
		again.Headers = append(again.Headers, h)
	}
	again.Headers = append(again.Headers, im.Header{Key: headFormer, Value: binary.BigEndian.AppendUint64(nil, uint64(e.Offset))})
	return again
}

// FormerOffset is where a record that was sent again stands in the log of the former epoch.
func FormerOffset(e *im.Entry) (int64, bool) {
	for i := range e.Headers {
		if h := &e.Headers[i]; h.Key == headFormer && len(h.Value) == 8 {
			return int64(binary.BigEndian.Uint64(h.Value)), true
		}
	}
	return 0, false
}

// IsCopy tells whether an entry stands in a copy: it names its origin's offset.
func IsCopy(e *im.Entry) bool {
	for i := range e.Headers {
		if e.Headers[i].Key == headOriginOffset {
			return true
		}
	}
	return false
}

// Hold is what a marker says in its value. Readers of a copy go by the headers alone.
type Hold struct {
	Generation uint32
	Final      bool
	Seal       int64 // if final
}

// DecodeHold reads a marker's value.
func DecodeHold(e *im.Entry) (Hold, error) {
	var v antipodev1.LogHold
	if err := decode(e, &v); err != nil {
		return Hold{}, err
	}
	return Hold{v.Generation, v.Final, v.Seal}, nil
}

// Marker tells whether the entry is a marker of its copy. A record that calls itself one is none: it has an offset.
func (h *Head) Marker() bool { return h.Kind == im.KindHold && h.OriginOffset < 0 }

// Cursors is a record of read.<origin>: one user's delivered and read cursors of one conversation.
type Cursors struct {
	Conversation    im.Conversation
	UID             im.UID
	Delivered, Read im.Cursor
}

// EncodeCursors returns it as a log entry.
func EncodeCursors(c Cursors, o im.Origin, s im.Stamp) im.Entry {
	return encode(string(c.Conversation),
		Head{Conversation: c.Conversation, Kind: im.KindCursors, Version: im.CurrentVersion, Origin: o, Stamp: s},
		&antipodev1.LogCursors{Uid: string(c.UID), Delivered: c.Delivered.String(), Read: c.Read.String()})
}

// DecodeCursors reads one.
func DecodeCursors(e *im.Entry, h Head) (Cursors, error) {
	var v antipodev1.LogCursors
	if err := decode(e, &v); err != nil {
		return Cursors{}, err
	}
	delivered, err := im.ParseCursor(v.Delivered)
	if err != nil {
		return Cursors{}, fmt.Errorf("%v at %d: delivered: %w", e.Partition, e.Offset, err)
	}
	read, err := im.ParseCursor(v.Read)
	if err != nil {
		return Cursors{}, fmt.Errorf("%v at %d: read: %w", e.Partition, e.Offset, err)
	}
	return Cursors{h.Conversation, im.UID(v.Uid), delivered, read}, nil
}

// EncodeRoute returns a record of route.<origin>: a claim, a release or (gateway and epoch only) a gateway_down. Region
// and offset are not encoded: they are the log's.
func EncodeRoute(k im.Kind, r im.Route, o im.Origin) im.Entry {
	return EncodeRouteRecord(im.RouteRecord{Kind: k, Route: r}, o)
}

// EncodeRouteRecord is EncodeRoute, and tells of a claim when its login began.
func EncodeRouteRecord(rec im.RouteRecord, o im.Origin) im.Entry {
	r := &rec.Route
	return encode(string(r.UID), Head{Kind: rec.Kind, Version: im.CurrentVersion, Origin: o, Stamp: r.Claimed},
		&antipodev1.LogRoute{
			Uid: string(r.UID), Device: string(r.Device), Platform: string(r.Platform),
			Gateway: r.Gateway.ID, Epoch: r.Gateway.Epoch, Conn: r.Conn, Login: r.Login, Offline: r.Offline, Since: uint64(rec.Since),
		})
}

// DecodeRoute reads one.
func DecodeRoute(e *im.Entry, h Head) (im.Route, error) {
	rec, err := DecodeRouteRecord(e, h)
	return rec.Route, err
}

// DecodeRouteRecord is DecodeRoute, and reads of a claim when its login began.
func DecodeRouteRecord(e *im.Entry, h Head) (im.RouteRecord, error) {
	var v antipodev1.LogRoute
	if err := decode(e, &v); err != nil {
		return im.RouteRecord{}, err
	}
	return im.RouteRecord{Kind: h.Kind, Since: im.Stamp(v.Since), Route: im.Route{
		UID: im.UID(v.Uid), Device: im.DeviceID(v.Device), Platform: im.Platform(v.Platform),
		Region: h.Origin.Region(), Gateway: im.Gateway{ID: v.Gateway, Epoch: v.Epoch},
		Conn: v.Conn, Login: v.Login, Offset: h.OriginOffset, Claimed: h.Stamp, Offline: v.Offline,
	}}, nil
}

// AsCopy returns the entry as it stands in a copy: key, value and headers unchanged, the origin offset and the link
// generation added (replacing those of a copy it was relayed from).
func AsCopy(e im.Entry, originOffset int64, generation uint32) im.Entry {
	headers := make([]im.Header, 0, len(e.Headers)+2)
	for _, h := range e.Headers {
		if !copyHeader(h.Key) {
			headers = append(headers, h)
		}
	}
	e.Headers = append(headers,
		im.Header{Key: headOriginOffset, Value: binary.BigEndian.AppendUint64(nil, uint64(originOffset))},
		im.Header{Key: headGeneration, Value: binary.BigEndian.AppendUint32(nil, generation)})
	return e
}

func copyHeader(key string) bool { return key == headOriginOffset || key == headGeneration }

// Checksum is xxhash64 over what ships unchanged: key, value and the headers that are not a copy's own, each behind its
// length. A link opens only if both ends agree on it for the receiver's last record.
func Checksum(e *im.Entry) uint64 {
	d := xxhash.New()
	var n [8]byte
	part := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		d.Write(n[:])
		d.Write(b)
	}
	part(e.Key)
	part(e.Value)
	for _, h := range e.Headers {
		if !copyHeader(h.Key) {
			part([]byte(h.Key))
			part(h.Value)
		}
	}
	return d.Sum64()
}
