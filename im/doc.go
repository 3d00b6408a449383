// Package im holds the nouns of Antipode: what a region, a conversation, a record, a place, a cursor and a route are,
// and the pure rules over them (order, merge, coverage, the hybrid clock). It imports the standard library only, does
// no I/O and reads no clock, so every service, the client, the simulator and the tests share one meaning of each word.
//
// The words are those of docs/architecture.md; the invariants I1–I12 named in comments are listed there.
package im
