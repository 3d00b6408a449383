// Package timeline turns records of one conversation, heard in any order, any number of times and from several regions,
// into one list in place order. It is a value without clock or I/O.
//
// A record counts once by (origin, seq): below the cursor, or among those ahead of it, it is a duplicate and dropped. A
// message counts once by its id: a second record with the same id moves it to the lower of the two places (I6). Records
// ahead of a gap are shown at once, since the place alone decides where; the gap is what Missing tells to pull.
//
// Everything is bounded by Limits. A record beyond the bound of those ahead is dropped but remembered as missing, so that
// a pull brings it. Ids are remembered for longer than messages are kept; one that repeats after even its id was
// forgotten would show twice (with the default limits: after 40,000 later messages of the conversation).
package timeline
