// Package accept is what decides whether a region takes what a client sends: a function of the request, the clock, and what
// the region has applied of the group. It has no clock of its own and does no I/O.
package accept
