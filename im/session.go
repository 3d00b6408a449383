package im

import (
	"encoding/hex"
	"time"
)

// SessionID names a client's session.
type SessionID [16]byte

func (i SessionID) String() string { return hex.EncodeToString(i[:]) }

// SessionAsk is what a gateway asks of the one that holds a session which a client resumes elsewhere: to give it up.
type SessionAsk struct {
	ID       SessionID
	Secret   string // as the client told it
	UID      UID    // authenticated
	Device   DeviceID
	Platform Platform
	Login    uint64
	Push     uint64 // the last one that the client has
	Gateway  string // who asks
}

// Session is a client's session on its way from one gateway to another.
type Session struct {
	Seen    Stamp  // the highest acked
	Missed  bool   // pushes may have been lost: the next socket is told that it is behind
	Number  uint64 // of the last push
	SentMax uint64 // the highest that was put on any socket
	Behind  uint64 // pushes up to it were dropped; 0: none
	Resends int    // sockets in a row on which pushes were sent again for nothing
	Pushes  []SessionPush
	Groups  []UID         // InterestIn of the large groups that it may be in
	All     bool          // there are no others
	PassOn  time.Duration // for how long, once its new route is claimed, what still comes for it is passed on
}

// SessionPush is a push that the client has not acknowledged.
type SessionPush struct {
	Number uint64
	Late   Late
}

// Late is what came for a session at the gateway that gave it up: a push, or groups to join or leave.
type Late struct {
	Service, Method string
	Body            []byte
	Trace           string
	Join            []UID
}
