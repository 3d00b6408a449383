// Package owner is what the owner of a partition remembers while it applies, and what it decides from that: which seqs come
// next, who is in a group, what to deliver to whom, and whether its memory still holds. It has no clock and does no I/O:
// imserver feeds it from Kafka and PostgreSQL, the simulator from memory.
//
// The store may be several batches behind: one is being committed while the next is numbered. So what batches change is
// held until they are committed, and everything is forgotten at once when the store says that another owner was faster.
package owner
