// Package routes is the table of routes: a pure function of the records of every origin's route log. It has no clock and
// does no I/O; callers pass stamps.
//
// What makes every region's table the same whatever the interleaving of origins:
//
//   - a row belongs to (uid, device, origin), and only records of that origin's partition change it, in log order and
//     each once (Tail). So a table is a product of per-origin states, and each state is a function of a log prefix;
//   - what joins origins (which row of a device wins, which rows are dead, the digest) is computed when asked, by an
//     order over rows (im.Route.Compare), and stored nowhere.
//
// Within one origin: of two claims of a device the higher login stays, then the higher offset; a claim younger by more
// than MaxAge than the row replaces it whatever the logins, for the row is dead; a release removes the row only if
// gateway, epoch, conn and login are its own; a gateway_down raises the gateway's fence, removes its rows of that epoch
// and lower ones, and makes later claims under such an epoch void.
//
// Of a region's origins only the latest is followed (Current): when a region starts over, every gateway of it starts over too.
//
// A user may be held to a number of devices of a platform (Limit): which of them are one too many is a function of the rows
// held, so every region decides the same.
//
// Another region counts only while it is heard: what is older than the table's silence is cut off, a region that was cut
// off counts again once its log was read to the end (reach), and one that comes and goes is held down for a while (link).
//
// Rows lie in memory without pointers, about 95 bytes each with everything around them (store).
//
// Limits: a partition number is one lock; a lookup holds it for the rows of one user. A user's devices are not bounded
// here; accept limits them. A name is 255 bytes at most: a claim with a longer one is void.
package routes
