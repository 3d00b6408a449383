// Package storm simulates what happens when a region dies and all its clients look for another gateway at once, and when it
// comes back. Time, clients and gateways are simulated; the ranking, the accounting of newcomers, the rule by which clients'
// reports are believed, the ramp and the admission are the ones that ipconf runs.
//
// The model, in short. A client notices at its own time: its socket is reset, or, where the host is down too, a heartbeat is
// not answered. It backs off and asks a random ipconf of the surviving regions, and a second one if the first is slow. An
// ipconf answers so many asks a second. It knows loads that are up to two seconds old, learns of the region's death as fleet.go
// does (silence of a whole region says nothing; reports of clients do), and knows of the other ipconfs' newcomers only by the
// loads. The client races the gateways of its answer, dead ones among them, and complains of those that failed when it asks
// next. A client that is told to wait comes back when it was told, or up to half as late again. A gateway takes so many logins
// a second and queues the next 4,096; beyond that it refuses, and the client backs off and asks again. Connected clients lose
// their sockets now and then, which is how they find the region that has returned.
package storm
