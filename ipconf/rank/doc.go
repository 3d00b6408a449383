// Package rank puts gateways in the order in which a client should try them. It is a function of values: the same input,
// seed included, gives the same answer, with a reason for every gateway.
//
// Regions first. Each region has a score, the product of
//
//	proximity = 1 / (1 + RTT / 50 ms)        RTT as the client measured it; else near for the hinted or asking region
//	room      = min(1, free / 20 %)          free: the part of the region's capacity that is not taken
//
// so that a near region is left only when it is nearly full. The gateways of the best region come first, then those of
// the next one: a client whose first choice is dead still stays near.
//
// Within a region, places are drawn one after another by the power of two choices: two candidates are drawn by capacity,
// the one that is less full comes first (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). A
// gateway of n equal ones is among the two with probability 2/n, so a new empty one gets at most twice its fair share of
// the newcomers, however empty it is: it is not stampeded. How full a gateway is takes conns, newcomers sent there since
// that was measured, and cpu; the older the measurement, the nearer to the region's average it is taken to be.
//
// The gateway that the client used last wins if it is among those that may be used and is not full, unless the client
// asks for another region.
//
// Left out, with the reason: draining gateways and regions, dead ones, those found unhealthy.
package rank
