package im

// RouteRecord is one record of a route log, decoded.
type RouteRecord struct {
	Kind  Kind  // claim, release or gateway_down; others only move the position
	Route Route // of a gateway_down only Region, Gateway, Offset and Claimed (the record's stamp)
	Since Stamp // of a claim: when its login began, which claims anew repeat; 0 if the writer did not tell
}

// RoutePosition is how far a stored view of one origin's route partition is.
type RoutePosition struct {
	Next       int64  // the next offset of the origin's log to take
	Local      int64  // the local offset to read it from
	Generation uint32 // the link generation of the copy; 0 in the origin's own log
	Floor      int64  // rows claimed at a lower origin offset do not count: the reader jumped over a part of the log
}

// RouteBatch is one step of a stored view of routes: records of one origin's partition, in order. They are applied and
// the position is moved from From to To together, or not at all.
type RouteBatch struct {
	Partition Partition
	From      *RoutePosition // what must be stored; nil: nothing
	To        RoutePosition
	Records   []RouteRecord
}
