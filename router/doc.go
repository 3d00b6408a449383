// Package router owns routes: where each device is connected.
//
// Claims and releases of the own region's gateways are appended to route.<own origin>; every router, in every region,
// follows every origin's route log and holds all routes in memory (package routes). Nothing else writes a route, so the
// log is the only order there is, and a claim is answered once this router's own view has applied it.
//
//	gateway ──Attach──▶ claims ──▶ appender (one per partition) ──▶ route.<own origin>
//	   ▲                                                                │ this region's log and its peers' copies
//	   │                                                                ▼
//	   ├── kicks ◀──── owner of the partition ◀──────────────── follower ──▶ memory: every partition
//	   ├── pushes ◀─── Deliver (imserver), Notify (a link) ◀──── lookup ◀──────┘
//	   │
//	   └── heartbeats ──▶ watch ──▶ gateway_down, one per owned partition      mirror ──▶ Redis: owned partitions
//
// Owners of partitions do three things more than others: they write Redis, kick, and append gateway_down and heartbeats.
// Two owners at once do harm to nobody: Redis compares positions, kicks name their login, gateway_down is idempotent. Where
// there is none for a moment, who appended a claim kicks for it, and the next owner kicks what it finds to have lost.
//
// Limits: a route proves nothing about delivery. Pushes are lost with their stream, notifies with their link; clients
// pull. A route counts only while its gateway's epoch was not declared down, its claim is younger than two hours, its
// region's log was applied up to the end seen at start, and (for other regions) its region was heard of lately (I10).
package router
