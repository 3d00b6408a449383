package im

// Kind says what a record is. Kinds that a version does not know are stored raw and shown to no one.
type Kind string

// The kinds of records that conversations have. All of them take a seq.
const (
	KindMessage  Kind = "message"  // a text
	KindCreate   Kind = "create"   // a group begins: title and first members
	KindMember   Kind = "member"   // members added or removed
	KindSettings Kind = "settings" // title and other settings; the highest place wins
)

// The kinds that keep a log: they have no conversation and take no seq.
const (
	KindLog       Kind = "log"       // record 0 of each partition: names the log
	KindHeartbeat Kind = "heartbeat" // every 5 s: names the log, carries the origin's clock
	KindHold      Kind = "hold"      // in copies only: raises the link generation
	KindCursors   Kind = "cursors"   // in read.<origin>: delivered and read cursors of one user
)

// The kinds of route.<origin>; their key is the uid (none for gateway_down, which goes to every partition).
const (
	KindClaim       Kind = "claim"
	KindRelease     Kind = "release"
	KindGatewayDown Kind = "gateway_down"
)

// ID names a record before it is sent: edits, recalls, reactions and replies refer to it, and two records with one id
// are repeats of which one is visible (I6).
type ID struct {
	Conversation Conversation
	Sender       UID
	ClientID     UUID // version 7, on the server's clock; the idempotency key
}

// Record is one record of a conversation. Seq is 0 until the record is applied.
type Record struct {
	ID
	Kind    Kind
	Version uint32 // of the kind's body; a newer one than this build knows is stored raw
	Place   Place  // stamp and origin from accept; seq from apply
	Trace   string // W3C traceparent of the submit, or empty
	Body    []byte // the encoded body of the kind; opaque to everything but apply and clients
	Seen    Stamp  // the highest stamp the sender had seen (kept so that I4 can be checked)
}

// CurrentVersion is the highest body version that this build understands, for every kind.
const CurrentVersion = 1

// Known tells whether this build can derive anything from the record.
func (r *Record) Known() bool {
	if r.Version > CurrentVersion {
		return false
	}
	switch r.Kind {
	case KindMessage, KindCreate, KindMember, KindSettings:
		return true
	}
	return false
}

// Ack answers a submit: the record is durable in its origin's log (I1).
type Ack struct {
	ID     ID
	Stamp  Stamp
	Origin Origin
	Global bool // at least one peer holds it too; false with level global means: accepted in region only
}

// AckLevel is what a sender waits for.
type AckLevel string

// The ack levels.
const (
	AckRegion AckLevel = "region" // durable in the origin's Kafka, acks=all
	AckGlobal AckLevel = "global" // and read back from at least one peer's copy
)
