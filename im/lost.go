package im

import "fmt"

// CopyState is what a region holds of one partition of another's log, as it was read back from its own Kafka.
type CopyState struct {
	Partition  Partition
	Next       int64  // one past the last origin offset that the copy holds without a gap
	Generation uint32 // of the last marker; 0 if there is none, SealedGeneration behind the final one
	Log        UUID   // the name of the log that it is a copy of; zero if no record told
	Checksum   uint64 // of record Next-1, if Checked
	Checked    bool
	Held       Stamp // of the last marker
}

// Sealed tells whether the final marker stands in the copy: its seal is Next.
func (s CopyState) Sealed() bool { return s.Generation == SealedGeneration }

// CopyFill says that a copy of a partition is to be brought up to an offset, and which region has the rest.
type CopyFill struct {
	Partition Partition
	To        int64 // exclusive
	From      Region
}

// LostError tells a region that the others declared it lost: its log counts up to a seal and no further.
type LostError struct {
	Origin Origin // that was lost
	By     Region // who told
	Stamp  Stamp  // of the declaration
}

// LostOnce is the stamp of a declaration of which nobody here knows when it was made.
const LostOnce Stamp = 1

// Error says what to do.
func (e *LostError) Error() string {
	at := ""
	if e.Stamp > LostOnce {
		at = ", at " + e.Stamp.Time().UTC().Format("2006-01-02 15:04:05")
	}
	return fmt.Sprintf("origin %s was declared lost (%s says%s): nothing that this region takes counts any more: run antipode region return",
		e.Origin, e.By, at)
}
