// Package view is the specification of what a region derives from all origins' logs, as functions over values: no clock,
// no I/O. The timelines in PostgreSQL must behave like View; a contract test holds them to it.
//
// A view is a function of the set of records applied, whatever the interleaving of origins. Every merge commutes,
// associates and is idempotent:
//
//   - Records are keyed by (conversation, origin, seq). Seq counts the records of one conversation in one origin's log,
//     so it depends on that log's prefix alone.
//   - An id has its lowest place: a record shows if its place is its id's (I6).
//   - Changes of a group (create, member, settings) are all kept. Of several with one id the lowest place counts. Who
//     is a member when is the intervals they spell; the title is the one with the highest place.
//   - Delivered and read cursors merge by maximum.
//   - A position moves from what the reader saw to what it applied, by compare-and-set: the fence, and the reason why
//     nothing is applied twice or skipped (I8).
package view
