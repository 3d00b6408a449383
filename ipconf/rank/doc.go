// Package rank chooses gateways for clients. It is a function of values: it has no clock and does no I/O, and the same
// input, seed included, gives the same answer. docs/ipconf.md has the formula with its units and a picture of it.
//
// Build turns what is known of a fleet at one moment into a Table, once for many answers. Table.Draw answers one client in
// a time that does not grow with the fleet, and without allocating.
//
// A gateway's score is a product of factors between 0 and 1:
//
//	score  = room · cpu · net · sound · start · version
//	room    = 1 − (conns + newcomers under way) / capacity
//	cpu     = max(0.2, min(1, (1 − cpu used) / 0.5))         no effect below half, nor beyond 90 %
//	net     = min(1, (1 − bandwidth used) / 0.5)             no effect below half
//	sound   = (1 − error rate)²
//	start   = min(1, 0.1 + 0.9 · served / 30 s)              slow start of a gateway newer than the others
//	version = the weight that operators gave its version
//
// Where a measurement is old it says less: with trust = 2^(−age / 10 s), room, cpu and net are trust parts of their own and
// 1 − trust parts of the region's average.
//
// Its weight is capacity · score: the newcomers that it should get, against others of its region. Places are drawn by
// weight with the alias method (Walker 1977; Vose, "A Linear Algorithm for Generating Random Numbers with a Given
// Distribution", 1991), each from two draws, of which the one wins that got fewer newcomers for its weight lately
// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). So every gateway gets its part by weight,
// neither the best nor an empty new one is stampeded, and counts stay closer together than by drawing alone.
//
// A region's proximity to a client is 1 / (1 + RTT / 50 ms), and three times that where the user is at home. The nearest
// takes the client with the probability share · ramp · min(1, free / 20 %): share is what the region's state allows, ramp
// what it may take while it comes back, free the part of its capacity that is not taken. A client that it does not take is
// displaced to one of the others with a probability in proportion to spare conns · share · ramp · proximity². So is one
// whose nearest region is closed: a dead, draining or full region's clients spread by room and nearness.
//
// A list names a few gateways of the first region, some of each other, drawn in the order in which clients are displaced, and
// then the rest of the first: who goes down its list because a region died spreads as well.
package rank
