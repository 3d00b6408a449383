package wire

import (
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// The messages of a snapshot of timelines, which one region makes and another is seeded with.
type (
	SnapshotCutRequest  = antipodev1.SnapshotCutRequest
	SnapshotCutResponse = antipodev1.SnapshotCutResponse
	SnapshotPosition    = antipodev1.SnapshotPosition
	SnapshotRequest     = antipodev1.SnapshotRequest
	SnapshotChunk       = antipodev1.SnapshotChunk
	SnapshotHead        = antipodev1.SnapshotHead
	SnapshotMember      = antipodev1.SnapshotMember
	SnapshotTitle       = antipodev1.SnapshotTitle
	SnapshotCursor      = antipodev1.SnapshotCursor
	SnapshotRecord      = antipodev1.SnapshotRecord
)

// Cut is where a snapshot ends, by partition: it holds the records below these offsets, and of those partitions only whose
// number is Database modulo Databases. What is not named was not read yet.
type Cut struct {
	Partitions          int // of each topic
	Databases, Database int
	Next                map[im.Partition]int64
}

// CutOf checks a request and returns the cut that it names.
func CutOf(r *SnapshotRequest) (Cut, error) {
	c := Cut{Partitions: int(r.Partitions), Databases: int(r.Databases), Database: int(r.Database), Next: map[im.Partition]int64{}}
	if c.Partitions < 1 || c.Databases < 1 || c.Database >= c.Databases {
		return c, im.Errorf(im.CodeBadRequest, "a snapshot of %d partitions for database %d of %d", c.Partitions, c.Database, c.Databases)
	}
	for _, p := range r.Cut {
		at := im.Partition{Topic: p.Topic, Number: int(p.Partition)}
		if _, _, err := im.ParseTopic(at.Topic); err != nil || at.Number >= c.Partitions || p.Next < 0 {
			return c, im.Errorf(im.CodeBadRequest, "a snapshot is cut at %d of %v, which cannot be", p.Next, at)
		}
		c.Next[at] = p.Next
	}
	return c, nil
}

// Holds are the partition numbers that the cut is of.
func (c *Cut) Holds() []int {
	var numbers []int
	for n := c.Database; n < c.Partitions; n += c.Databases {
		numbers = append(numbers, n)
	}
	return numbers
}

// Home is the partition of an origin's records of a conversation; false if it is none of those that the cut is of.
func (c *Cut) Home(conversation im.Conversation, origin im.Origin) (im.Partition, bool) {
	p := im.Partition{
		Topic:  im.MsgTopic(origin, conversation.Lane()),
		Number: Partition(string(conversation), c.Partitions),
	}
	return p, p.Number%c.Databases == c.Database
}

// Below tells whether a record is in the snapshot.
func (c *Cut) Below(conversation im.Conversation, origin im.Origin, offset int64) bool {
	p, ours := c.Home(conversation, origin)
	return ours && offset < c.Next[p]
}

// SnapshotSize is how many bytes a chunk has on the wire.
func SnapshotSize(c *SnapshotChunk) int { return proto.Size(c) }

// Seeded is how far one of a region's databases is that is seeded from a snapshot of another region's.
type Seeded struct {
	Source   im.Region // empty: it was not begun
	Cut      []*SnapshotPosition
	After    []byte // of the last chunk that is there
	Expected int64  // messages that the heads told of so far
	Records  int64  // messages of them that are there
	Rows     int64  // of all tables
	Done     bool
}
