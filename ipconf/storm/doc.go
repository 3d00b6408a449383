// Package storm simulates what happens when a region dies and all its clients look for another gateway at once. Time and
// clients are simulated; the ranking, the accounting of newcomers and the admission are the ones that ipconf runs.
//
// The model, in short. Every client notices at its own time (most at once, some by a missed heartbeat), tries its old gateway
// in vain, backs off and asks a random ipconf of the surviving regions. Each ipconf knows loads that are up to two seconds
// old, finds the region dead after dead_after, and knows of the others' newcomers only by the loads. A client that is told
// to wait comes back when it was told. A gateway takes so many logins a second and queues the rest; a login that waits
// longer than the connect timeout fails, and the client tries the next place of its answer, then asks again.
package storm
