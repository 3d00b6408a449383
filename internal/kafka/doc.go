// Package kafka is the log: it appends to, reads from and checks the topics of one region's Kafka.
//
// It is built on the request types of segmentio/kafka-go's protocol packages, its Conn and its Transport, not on its Writer and
// Reader, which carry one partition a request, keep no order past a failed batch and jump over retention gaps in
// silence. One append request carries batches of many partitions of one leader, with at most one batch in flight per
// partition; one fetch asks for every partition that a Reader follows on one leader, and names only those that moved
// (a fetch session). Both are encoded and decoded here, and have conns of their own; kafka-go's Transport carries all else.
//
// # Appends
//
// Each partition has a queue. A batch that fails stays at its head and is sent again, with the same producer id and
// sequence, until the last of its calls gives up; nothing behind it overtakes it. The producer is idempotent, so a batch
// that landed though its answer was lost is not appended twice while the broker remembers the producer. When a batch is
// given up, the producer's epoch for that partition is raised, so that the broker refuses the abandoned batch if it
// arrives late, after the ones behind it.
//
// An append that returns CodeUnavailable may have landed.
//
// # Reads
//
// Offsets here are local to this Kafka. A Reader never skips: an offset that the partition does not hold is a
// *RangeError, and it is the caller who decides what the gap means. So is a log that lost what was read of it and grew
// again since: each fetch names the leader epoch of what was read last, and the broker compares.
package kafka
