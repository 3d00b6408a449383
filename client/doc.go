// Package client is Antipode's Go client: it finds gateways through ipconf, races the best few, keeps a session, sends
// with retries that can never show a message twice, and turns what it hears from several regions into one timeline per
// conversation.
//
//	ipconf ◀─GET /v1/endpoints── endpoints ──ranked──▶ race ──socket──▶ conn ──pushes──▶ inbox
//	                                                                     ▲ │              │
//	         Submit ──▶ outbox (one queue per conversation, in order) ───┘ └─replies      ▼
//	                                                                     timelines ──▶ Events()
//	         gap, list row, or silence ──▶ puller ──own region and origin in parallel──▶──┘
//
// What a caller can rely on:
//
//   - a Submit that returned an Ack is durable in its origin's log; until then it is tried again with the same client_id
//     on any gateway of any region, so it may have landed when its context ends first (the error says so);
//   - submits of one conversation keep the order in which they were called;
//   - each message is emitted as Inserted exactly once in the life of a Client, at its place; one that was repeated at a
//     lower place is Moved there;
//   - nothing is lost by a dropped push, notify or socket: gaps are pulled, and so is everything after a silence.
//
// Limits: timelines live in memory and are trimmed to Config.Keep messages (the oldest places go first, with a Trimmed
// event); a Client starts with empty timelines, and what it pulls then it emits.
package client
