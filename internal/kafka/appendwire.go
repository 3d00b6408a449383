package kafka

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/antipode-im/antipode/im"
)

// produceVersion is the version of append requests: the last that names no topic ids and has no tags. Brokers have it
// since Apache Kafka 2.4.
const produceVersion = 8

// appendRequest appends batches to partitions of one leader, at most one to each.
type appendRequest struct {
	clientID string
	millis   int32 // that the broker may wait for replicas
	batches  []*batch
	buffers  *buffers
	wire     *[]byte // encoded at once: a batch may be sealed again while a request that was given up is still under way
	version  int16
}

func (r *appendRequest) prepare() *appendRequest {
	r.wire = r.buffers.get()
	size := 1 << 10
	for _, b := range r.batches {
		size += len(b.encoded) + len(b.more) + len(b.queue.partition.Topic) + 16
	}
	*r.wire = r.encode(slices.Grow(*r.wire, size))
	return r
}

// ApiKey and the methods below make it a message that a conn carries.
func (*appendRequest) ApiKey() protocol.ApiKey { return protocol.Produce }

// Required has kafka-go leave encoding and decoding to RawExchange.
func (r *appendRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.Produce]
	return true
}

// RawExchange sends it and decodes the answer.
func (r *appendRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < produceVersion {
		return nil, fmt.Errorf("%w: the broker speaks produce up to version %d, Antipode %d", kafkago.UnsupportedVersion, r.version, produceVersion)
	}
	defer r.buffers.put(r.wire)
	body, err := exchange(rw, r.wire)
	if err != nil {
		return nil, err
	}
	return r.decode(body)
}

// encode appends the request, by https://kafka.apache.org/protocol#The_Messages_Produce.
func (r *appendRequest) encode(b []byte) []byte {
	b = requestHead(b, protocol.Produce, produceVersion, r.clientID, false)
	b = binary.BigEndian.AppendUint16(b, 1<<16-1) // transactional id: none
	b = binary.BigEndian.AppendUint16(b, 1<<16-1) // acks: all
	b = binary.BigEndian.AppendUint32(b, uint32(r.millis))
	topics := group(len(r.batches), func(i int) *im.Partition { return &r.batches[i].queue.partition })
	b = binary.BigEndian.AppendUint32(b, uint32(len(topics)))
	for _, members := range topics {
		topic := r.batches[members[0]].queue.partition.Topic
		b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
		b = append(b, topic...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(members)))
		for _, m := range members {
			b = binary.BigEndian.AppendUint32(b, uint32(r.batches[m].queue.partition.Number))
			b = append(b, r.batches[m].encoded...) // begins with its size
			b = append(b, r.batches[m].more...)
		}
	}
	return b
}

// appendResponse is what became of each batch, by index in batches.
type appendResponse struct{ ends []appendEnd }

type appendEnd struct {
	told  bool
	err   error
	first int64 // offset
}

// ApiKey makes it a message of kafka-go's.
func (*appendResponse) ApiKey() protocol.ApiKey { return protocol.Produce }

func (r *appendRequest) decode(b []byte) (*appendResponse, error) {
	d := decoder{b: b}
	res := &appendResponse{ends: make([]appendEnd, len(r.batches))}
	for topics := d.int32(); topics > 0 && !d.bad; topics-- {
		topic := d.bytes(int(d.int16()))
		for partitions := d.int32(); partitions > 0 && !d.bad; partitions-- {
			number := d.int32()
			end := appendEnd{told: true}
			code := d.int16()
			end.first = d.int64()
			d.int64() // append time
			d.int64() // log start
			why := ""
			for n := d.int32(); n > 0 && !d.bad; n-- { // errors of single records
				d.int32()
				if s := d.nullable(); s != nil {
					why = string(s)
				}
			}
			if s := d.nullable(); s != nil {
				why = string(s)
			}
			end.err = codeError(code, why)
			if d.bad {
				break
			}
			for i, batch := range r.batches {
				if p := &batch.queue.partition; p.Number == int(number) && p.Topic == string(topic) {
					res.ends[i] = end
					break
				}
			}
		}
	}
	if d.bad {
		return nil, fmt.Errorf("decode the answer to an append of %d bytes: %w", len(b), errShort)
	}
	return res, nil
}
