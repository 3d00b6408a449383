// Package simulator runs the pure cores of Antipode as three regions over logs in memory, with faults, and checks the
// invariants I1 to I10 of docs/architecture.md while they run and once they are whole again.
//
// What decides is production code: imserver/accept and im.Clock take submits, imserver/view and imserver/owner read, number
// and apply, view.View stores, im.Follower and the replicator's Stand, Refuses and Parted judge copies, router/routes holds
// routes, and client/timeline orders what clients see. What is made up is what those talk to: brokers, networks, processes,
// clocks, and people. Nothing of it is concurrent: one event happens at a time, in simulated time, and every choice comes
// from the seed. So the same Options are the same run, to the last event.
//
// What is right is decided apart from the cores: truth numbers every record when its own log takes it, and derives what
// everybody must show in the end from that alone.
package simulator
