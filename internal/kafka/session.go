package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/antipode-im/antipode/im"
)

// want is what to fetch of one partition.
type want struct {
	partition im.Partition
	from      int64
	leader    int32 // epoch of the leader that is asked; -1 is unknown
	read      int32 // epoch of the leader that appended what stands before from; -1 is unknown
	of        *follow
}

// got is what a fetch found in one partition.
type got struct {
	batch im.Batch
	next  int64 // where to go on
	epoch int32 // of the leader that appended the last of batch; -1 is unknown
	err   error // *RangeError, or one that may pass
}

// session is what a broker and a reader both know of the reader's fetches, so that a request names only the partitions
// whose offset changed, and an answer only those that have something (KIP-227):
//
//	request 0    p 17, q 4, … all     ──▶   answer: session 9, p 17–20, q –, …
//	request 1    9.1: p 21            ──▶   answer: p 21
//	request 2    9.2: p 22            ──▶   answer: q 4
//	request 3    9.3: q 5, forget r   ──▶
//
// One request of a session is under way at a time. After a failure neither knows what the other knows: the next request
// names all partitions again and replaces the session.
type session struct {
	id    int32
	epoch int32 // of the next request: 0 opens a session (and ends session id), -1 does without
	parts map[im.Partition]*known
	round uint64
}

// known is what the broker knows of a partition that is in the session.
type known struct {
	from         int64
	leader, read int32
	index        int    // in the wants of that round
	round        uint64 // the last request that wanted it
}

func newSession(epoch int32) *session {
	return &session{epoch: epoch, parts: make(map[im.Partition]*known)}
}

// reset has the next request open a session in place of this one. The former map stays with the request that failed,
// whose answer may still be under way.
func (s *session) reset() {
	s.epoch = min(s.epoch, 0)
	s.parts = make(map[im.Partition]*known)
}

// ask returns which wants the next request must name, by index, and which partitions the broker is to forget.
func (s *session) ask(wants []want) (named []int, forgotten []im.Partition) {
	s.round++
	for i := range wants {
		w := &wants[i]
		k, ok := s.parts[w.partition]
		if !ok {
			k = &known{}
			s.parts[w.partition] = k
		}
		if !ok || k.from != w.from || k.leader != w.leader || k.read != w.read {
			named = append(named, i)
		}
		*k = known{from: w.from, leader: w.leader, read: w.read, index: i, round: s.round}
	}
	if len(s.parts) == len(wants) {
		return named, nil
	}
	for p, k := range s.parts {
		if k.round != s.round {
			forgotten = append(forgotten, p)
			delete(s.parts, p)
		}
	}
	return named, forgotten
}

// answered moves the session on after an answer without error.
func (s *session) answered(id int32) {
	switch {
	case s.epoch < 0:
	case id == 0: // the broker has no room for sessions, or closed this one
		s.id = 0
		s.reset()
	case s.epoch == 1<<31-1:
		s.id, s.epoch = id, 1
	default:
		s.id, s.epoch = id, s.epoch+1
	}
}

// lost tells whether an answer's error means that the broker does not know the session: asking again with a new one is
// all it needs.
func lost(err error) bool {
	return errors.Is(err, kafkago.FetchSessionIDNotFound) || errors.Is(err, kafkago.InvalidFetchSessionEpoch)
}

// fetchVersion is the version of fetch requests: the first that tells of logs that lost what was read of them. Brokers
// have it since Apache Kafka 2.7.
const fetchVersion = 12

// fetchRequest is one fetch from one broker.
type fetchRequest struct {
	clientID     string
	waitMillis   int32
	maxBytes     int32
	perPartition int32
	id, epoch    int32                   // of the session, as are
	parts        map[im.Partition]*known // these, which no one changes before the answer is decoded or the session reset
	round        uint64
	wants        []want
	named        []int // of wants: those that the request names
	forgotten    []im.Partition
	buffers      *buffers
	wire         *[]byte
	table        *crc32.Table
	form         form
	crates       *crates
	version      int16
}

func (r *fetchRequest) prepare() *fetchRequest {
	r.wire = r.buffers.get()
	*r.wire = r.encode(*r.wire)
	return r
}

// ApiKey and the methods below make it a message that a conn carries.
func (*fetchRequest) ApiKey() protocol.ApiKey { return protocol.Fetch }

// Required has kafka-go leave encoding and decoding to RawExchange.
func (r *fetchRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.Fetch]
	return true
}

// RawExchange sends it and decodes the answer.
func (r *fetchRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < fetchVersion-1 { // the highest that kafka-go itself knows
		return nil, fmt.Errorf("%w: the broker speaks fetch up to version %d, Antipode %d", kafkago.UnsupportedVersion, r.version, fetchVersion)
	}
	defer r.buffers.put(r.wire)
	body, err := exchange(rw, r.wire)
	if err != nil {
		return nil, err
	}
	return r.decode(body)
}

// encode appends the request, by https://kafka.apache.org/protocol#The_Messages_Fetch.
func (r *fetchRequest) encode(b []byte) []byte {
	b = requestHead(b, protocol.Fetch, fetchVersion, r.clientID, true)
	b = binary.BigEndian.AppendUint32(b, 1<<32-1) // replica: a consumer
	b = binary.BigEndian.AppendUint32(b, uint32(r.waitMillis))
	b = binary.BigEndian.AppendUint32(b, 1) // least bytes
	b = binary.BigEndian.AppendUint32(b, uint32(r.maxBytes))
	b = append(b, 0) // isolation: nobody appends to these topics in transactions
	b = binary.BigEndian.AppendUint32(b, uint32(r.id))
	b = binary.BigEndian.AppendUint32(b, uint32(r.epoch))

	topics := group(len(r.named), func(i int) *im.Partition { return &r.wants[r.named[i]].partition })
	b = binary.AppendUvarint(b, uint64(len(topics)+1))
	for _, members := range topics {
		b = appendCompact(b, r.wants[r.named[members[0]]].partition.Topic)
		b = binary.AppendUvarint(b, uint64(len(members)+1))
		for _, m := range members {
			w := &r.wants[r.named[m]]
			b = binary.BigEndian.AppendUint32(b, uint32(w.partition.Number))
			b = binary.BigEndian.AppendUint32(b, uint32(w.leader))
			b = binary.BigEndian.AppendUint64(b, uint64(w.from))
			b = binary.BigEndian.AppendUint32(b, uint32(w.read))
			b = binary.BigEndian.AppendUint64(b, 1<<64-1) // log start: of replicas
			b = binary.BigEndian.AppendUint32(b, uint32(r.perPartition))
			b = append(b, 0)
		}
		b = append(b, 0)
	}
	topics = group(len(r.forgotten), func(i int) *im.Partition { return &r.forgotten[i] })
	b = binary.AppendUvarint(b, uint64(len(topics)+1))
	for _, members := range topics {
		b = appendCompact(b, r.forgotten[members[0]].Topic)
		b = binary.AppendUvarint(b, uint64(len(members)+1))
		for _, m := range members {
			b = binary.BigEndian.AppendUint32(b, uint32(r.forgotten[m].Number))
		}
		b = append(b, 0)
	}
	b = append(b, 1) // rack: ""
	return append(b, 0)
}

// group returns the indexes 0..n-1 by topic, in the order in which they come: brokers serve the first of an answer that
// is full, so the order must not favour any for ever.
func group(n int, partition func(int) *im.Partition) (topics [][]int) {
	for i := range n {
		p := partition(i)
		found := false
		for t := range topics {
			if partition(topics[t][0]).Topic == p.Topic {
				topics[t] = append(topics[t], i)
				found = true
				break
			}
		}
		if !found {
			topics = append(topics, []int{i})
		}
	}
	return topics
}

func appendCompact(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)+1))
	return append(b, s...)
}

// fetchResponse is what came: by index in wants, nil for those that the answer leaves out because they had nothing, or
// because it was full.
type fetchResponse struct {
	err     error // of the whole
	session int32
	found   []*got
}

// ApiKey makes it a message of kafka-go's.
func (*fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

// decode reads the answer and copies out of it what is kept.
func (r *fetchRequest) decode(b []byte) (*fetchResponse, error) {
	d := decoder{b: b}
	d.tags(nil) // of the head
	d.int32()   // throttled for
	res := &fetchResponse{err: codeError(d.int16(), ""), session: d.int32(), found: make([]*got, len(r.wants))}
	for topics := d.count(); topics > 0 && !d.bad; topics-- {
		topic := d.compact()
		for partitions := d.count(); partitions > 0 && !d.bad; partitions-- {
			r.partition(&d, topic, res)
		}
		d.tags(nil)
	}
	d.tags(nil)
	if d.bad {
		return nil, fmt.Errorf("decode a fetch of %d bytes: %w", len(b), errShort)
	}
	return res, nil
}

func (r *fetchRequest) partition(d *decoder, topic []byte, res *fetchResponse) {
	number := d.int32()
	code := d.int16()
	end := d.int64() // high watermark
	d.int64()        // last stable offset
	start := d.int64()
	for n := d.count(); n > 0 && !d.bad; n-- { // aborted transactions
		d.bytes(16)
		d.tags(nil)
	}
	d.int32() // preferred replica
	set := d.compact()
	diverged := int64(-1)
	d.tags(func(tag uint64, v decoder) {
		if tag == 0 { // the epoch and offset up to which the log is the one that was read
			v.int32()
			diverged = v.int64()
		}
	})
	if d.bad {
		return
	}
	k, ok := r.parts[im.Partition{Topic: string(topic), Number: int(number)}]
	if !ok || k.round != r.round {
		return
	}
	w := &r.wants[k.index]
	g := &got{next: w.from, epoch: w.read}
	res.found[k.index] = g
	switch {
	case code != 0:
		g.err = codeError(code, "")
	case diverged >= 0:
		g.err = &RangeError{Partition: w.partition, Wanted: w.from, Bounds: im.Bounds{Start: min(start, diverged), End: diverged}}
	default:
		rs := records{partition: w.partition, next: w.from, epoch: w.read, table: r.table, form: r.form, crates: r.crates}
		g.err = rs.decode(set)
		g.batch = im.Batch{Partition: w.partition, Entries: rs.entries, Packed: rs.packed, Heads: rs.heads, End: end}
		g.next, g.epoch = rs.next, rs.epoch
	}
}
