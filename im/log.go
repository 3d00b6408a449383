package im

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Partition is one partition of one log's topic, for example msg.eu.direct/3. Copies keep the number.
type Partition struct {
	Topic  string
	Number int
}

// ParsePartition reads the text form topic/number.
func ParsePartition(s string) (Partition, error) {
	topic, number, ok := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil || strconv.FormatUint(n, 10) != number {
		return Partition{}, fmt.Errorf("partition %q: want topic/number", s)
	}
	if _, _, err := ParseTopic(topic); err != nil {
		return Partition{}, fmt.Errorf("partition %q: %w", s, err)
	}
	return Partition{topic, int(n)}, nil
}

// String is the text form topic/number.
func (p Partition) String() string { return p.Topic + "/" + strconv.Itoa(p.Number) }

// Compare orders partitions by topic, then number.
func (p Partition) Compare(q Partition) int {
	return cmp.Or(cmp.Compare(p.Topic, q.Topic), cmp.Compare(p.Number, q.Number))
}

// Origin is the origin whose log the partition belongs to.
func (p Partition) Origin() Origin {
	_, o, _ := ParseTopic(p.Topic)
	return o
}

// Family is what kind of log a topic holds.
type Family string

// The families of topics. A message topic has a lane as well.
const (
	FamilyMsg   Family = "msg"   // records of conversations, one topic a lane
	FamilyRead  Family = "read"  // delivered and read cursors, partitioned by conversation
	FamilyRoute Family = "route" // claims and releases, partitioned by uid
)

// MsgTopic names the topic of an origin's records of one lane.
func MsgTopic(o Origin, l Lane) string { return "msg." + string(o) + "." + string(l) }

// ReadTopic names the topic of an origin's delivered and read cursors.
func ReadTopic(o Origin) string { return "read." + string(o) }

// RouteTopic names the topic of an origin's routes.
func RouteTopic(o Origin) string { return "route." + string(o) }

// Topics lists every topic of an origin.
func Topics(o Origin) []string {
	topics := make([]string, 0, len(Lanes)+2)
	for _, l := range Lanes {
		topics = append(topics, MsgTopic(o, l))
	}
	return append(topics, ReadTopic(o), RouteTopic(o))
}

// ParseTopic reads a topic's name. An origin with an epoch has a dot of its own: msg.eu.2.direct, read.eu.2.
func ParseTopic(topic string) (Family, Origin, error) {
	family, rest, ok := strings.Cut(topic, ".")
	if !ok {
		return "", "", fmt.Errorf("topic %q: want msg.<origin>.<lane>, read.<origin> or route.<origin>", topic)
	}
	switch Family(family) {
	case FamilyMsg:
		i := strings.LastIndexByte(rest, '.')
		if i < 0 {
			return "", "", fmt.Errorf("topic %q: want msg.<origin>.<lane>", topic)
		}
		switch Lane(rest[i+1:]) {
		case LaneDirect, LaneGroup, LaneSuper:
		default:
			return "", "", fmt.Errorf("topic %q: %q is no lane", topic, rest[i+1:])
		}
		rest = rest[:i]
	case FamilyRead, FamilyRoute:
	default:
		return "", "", fmt.Errorf("topic %q: %q is no family of topics", topic, family)
	}
	o, err := ParseOrigin(rest)
	if err != nil {
		return "", "", fmt.Errorf("topic %q: %w", topic, err)
	}
	return Family(family), o, nil
}

// Header is one header of a log entry.
type Header struct {
	Key   string
	Value []byte
}

// Entry is one record as it stands in a partition of a log or a copy: bytes and headers, not decoded. Package wire
// turns entries into records and back.
type Entry struct {
	Partition Partition
	Offset    int64 // in the Kafka it was read from: the origin's own log, or this region's copy
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Position is how far a reader is in one partition.
type Position struct {
	Partition Partition
	Next      int64 // the next offset of the ORIGIN's log to take; everything below it was applied
	Local     int64 // the local offset to seek to for it
	Log       UUID  // the name of the log that it was read from; zero if no record told, or nobody asked
}

// LogName is what record 0 of a partition and each heartbeat say the log is. Two logs with the same topic but different
// names are different logs: one was recreated.
type LogName struct {
	Origin Origin
	ID     UUID // random, chosen when the log was created
}

// IsZero tells whether the name was never set.
func (n LogName) IsZero() bool { return n == LogName{} }

// String shows origin and id.
func (n LogName) String() string { return string(n.Origin) + "#" + n.ID.String() }

// Batch is consecutive entries of one partition, as a reader returns them.
type Batch struct {
	Partition Partition
	Entries   []Entry
	Packed    []Packed   // instead of entries, from a reader that packs
	Heads     []CopyHead // instead of entries, from a reader of heads
	End       int64      // one past the last offset of the partition when it was read: End - the last entry's offset - 1 are still to come
}

// Packed is consecutive records of an origin's log as they stand in a copy, encoded by the log's adapter under link generation
// 0: whoever ships them decodes none of them.
type Packed struct {
	Partition Partition
	First     int64         // origin offset of the first
	Count     int           // records
	Codec     string        // how Bytes are compressed: "" or "zstd"
	Bytes     []byte        // the records
	Size      int           // of Bytes before compression
	Name      LogName       // that the last of those records tells which name their log; zero if none does
	Traces    []PackedTrace // of records that are traced
}

// PackedAppend is a Packed that is to be appended, and what to do then: Then gets the local offset of the first record, or why
// it was not acknowledged. It must not block.
type PackedAppend struct {
	*Packed
	Then func(first int64, err error)
}

// PackedTrace is the trace context of a record in a Packed.
type PackedTrace struct {
	Offset int64  // the record's, in the origin's log
	Parent string // W3C traceparent
}

// CopyHead is what shipping looks at of one record of a copy.
type CopyHead struct {
	Local      int64 // offset in the copy
	Origin     int64 // offset in the origin's log
	Generation uint32
	Summed     bool // Checksum is known
	Kind       Kind
	Stamp      Stamp
	Checksum   uint64
	Name       *LogName // of records that name their log
}

// Bounds are the offsets that a partition still holds: Start is the first, End one past the last.
type Bounds struct {
	Start, End int64
}

// CopyDigest is what a stretch of a log or copy comes to, by which two regions compare it.
type CopyDigest struct {
	First, Next int64    // origin offsets held: the lowest, and one past the highest
	Sums        []uint64 // the chain after each piece of the stretch
}
