package im

// Delivery is one event for some users: what an imserver hands to a router, and a router to a peer's.
type Delivery struct {
	Service    string // which service it belongs to: "im"
	Method     string // names the type of the body: "event"
	Key        string // the conversation
	Recipients []UID
	Body       []byte // encoded once; opaque to routers and gateways
	Trace      string // W3C traceparent, or empty
	Notify     bool   // also tell the other regions where recipients have routes
	Ephemeral  bool   // for the sockets that are there now, once: not kept for a resume, and the first to be dropped

	Interest *Interest // of one to InterestIn a group: whom of it this is for
	Join     []UID     // InterestIn of large groups that the recipients are in from now on
}

// Interest says whom in a large group a delivery is for: those who were members at its place, as far as the changes of
// membership say that were known where it was made. A gateway that knows of fewer asks before it hands it on.
type Interest struct {
	Place   Place  // of the record
	Changes Cursor // the last change of membership from each origin
	Before  Cursor // Changes without the one that the record is; empty: it is none
	Changed []UID  // whom that one names
}

// Roll is who of some users is in a large group, and as of when.
type Roll struct {
	Changes Cursor        // of membership: the last from each origin that is taken into account
	Members map[UID]Place // where what added them stands
}

// Push is a delivery on its way to some conns of one gateway.
type Push struct {
	Conns   []uint64
	Service string
	Method  string
	Body    []byte
	Trace   string

	Ephemeral bool // these are as of the delivery
	Interest  *Interest
	Join      []UID
}

// Claim says that a conn has a device's route, or with Release that it gave it up.
type Claim struct {
	UID      UID
	Device   DeviceID
	Platform Platform
	Conn     uint64
	Login    uint64
	Release  bool
	Offline  bool // the session is in its resume window, without a socket
}

// Kick closes a conn whose device logged in again. It names the login, so that a conn that was claimed anew is left alone.
type Kick struct {
	Conn  uint64
	Login uint64
	Code  Code // replaced, login_tie or device_limit
}

// Call is a client's call with what the gateway knows of the caller.
type Call struct {
	Service, Method string
	Key             string // what the service partitions by
	Body            []byte
	UID             UID // authenticated
	Device          DeviceID
	Platform        Platform
	Seen            Stamp // the highest stamp acked on this conn
	MaxText         int   // bytes
}

// CallResult is a call's answer.
type CallResult struct {
	Body  []byte
	Stamp Stamp // given to what was submitted; raises the conn's seen
	Join  []UID // InterestIn of large groups that the caller is in: its session may get their deliveries from now on
	All   bool  // Join names all that there are
}

// InterestIn is the recipient that stands for whoever is in a large group, without naming anybody: a gateway that has such
// a session claims a route under it, and a delivery to it is one push for each such gateway. It is no user's uid.
func InterestIn(c Conversation) UID { return UID(c) }

// Load is how loaded a gateway is.
type Load struct {
	Gateway        Gateway
	Conns          int
	Capacity       int // conns it is sized for
	BytesPerSecond uint64
	BytesCapacity  uint64  // bytes per second it is sized for; 0: not known
	CPU            float64 // 0 to 1 of the machine
	Version        string  // of its build; empty: not known
	Draining       bool
}

// Held is up to which offsets (exclusive) at least one peer holds the own origin's log.
type Held struct {
	Offsets map[Partition]int64
	Peers   int // peers whose link is open now
}

// Instance is one running service as discovery knows it.
type Instance struct {
	Service string // ipconf, gateway, router, imserver, replicator
	ID      string // unique within region and service
	Region  Region
	Addr    string // host:port of its RPC server
	URL     string // public URL, of gateways and ipconfs
	// WebTransport is the URL at which a gateway serves it; empty: it does not.
	WebTransport string
	Epoch        uint64   // of gateways: the gateway epoch
	Draining     bool     // takes no newcomers
	Serves       []string // service names that gateways forward to it
}
