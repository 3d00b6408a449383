package im

// CopyHealth is what a region says of a link that it receives, and of the copies that the link writes.
type CopyHealth struct {
	Open   bool
	Error  string // why the link is not open
	Copies []CopyCheck
}

// CopyCheck is one partition of a copy, as its region finds it: read to its end, and by what the region's views can take
// from it.
type CopyCheck struct {
	CopyState
	View    int64  // the next origin offset that the views need
	Reach   int64  // one past the last record that they can take from what the copy holds now; below Next, the copy lacks a record that they need
	Refused string // why the partition is not shipped; empty if it is
	Origin  UUID   // the name of the origin's log, as its region told when a link opened; zero if none did

	Between        Region // the region in between over which it comes, if that is refused it itself; empty if it is not
	BetweenRefused string // why
}

// CopyRepair says that a copy is to bring its readers the records from an offset on, once more or for the first time: those
// up to To come from another region, the rest over the link.
type CopyRepair struct {
	Partition Partition
	Begin     int64
	To        int64  // exclusive; at most Begin if the link has everything
	From      Region // the region whose copy, or log, has them
	Log       UUID   // the name of the log that they are of
}

// CopyProgress is how far a repair is.
type CopyProgress struct {
	Partition Partition
	Next      int64 // one past the last record that was brought
}
