// Package ipconf tells clients which gateways to try, best first, and which policy to follow.
//
// Existence comes from discovery, region by region; load from the gateways of the own region (polled) and from the other
// regions' ipconfs (exchanged). Package rank turns both into an order. Nothing is removed on one bad sign:
//
//   - a failing read of a catalogue changes nothing, however long it lasts (last known good, with its age);
//   - an update that drops more than half of a region's gateways, or all of them, is held back until a second look, a
//     moment later, says the same;
//   - a gateway whose load cannot be asked for is left out, unless that is true of all gateways of the region.
package ipconf
