// Package replicator ships logs between regions.
//
// There is one link per (origin, peer). The receiver opens it: it names, per partition, the origin offset it needs next;
// the sender streams batches of its own log, compressed and within a window, many partitions on one stream; the receiver
// appends them to its copies, one batch in flight per partition, reads the copies back and says up to which offset it
// holds them.
//
//	      sender (region eu)                                   receiver (region us)
//	                               ◀── open: next, checksum ──
//	own log ─▶ Reader ─▶ pump ─┐   ─── opened: start, end ───▶
//	                           ├──  ─── batch, batch… ────────▶ ─▶ part: queue ─▶ Append ─▶ copy ─▶ Reader
//	router ─▶ notify queue ────┘   ─── notify*, status ──────▶                                       │
//	imservers ◀─ held ◀─────────   ◀── held, credit, seek ───  ◀───────────── follower ◀─────────────┘
//
// What it guarantees: the records that a Follower takes from a copy are exactly a prefix of the origin's log (I2, I8),
// whatever is cut, killed, repeated or timed out, and however many replicators write to the copy. No state is kept
// beside the copy: the next offset is the one past the copy's last valid record, or past what the views have applied,
// whichever is higher. After an append of unknown outcome the copy is read to its end before the link goes on.
//
// What it refuses, loudly, one partition at a time: a log with another name, a log whose record below the wanted offset
// has another checksum, a log that is shorter than its copy, a log whose retention passed the copy.
//
// What can be lost: notifies. They ride a link of their own (*) beside that of the log, or that one where the sender knows no
// other, are dropped when it is congested or closed, and are counted.
package replicator
