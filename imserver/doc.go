// Package imserver accepts, applies and serves the records of conversations in one region.
//
//	submit ──▶ check ──▶ stamp ──▶ append to msg.<origin>.<lane> ──▶ ack          accept (submit.go, mark.go)
//
//	msg.*, read.* of every origin ──▶ follow ──▶ batch ─┬─▶ commit to the store    apply (apply.go, shard.go)
//	                                                    └─▶ hand to the routers    deliver (deliver.go)
//
//	pull, list, receipts, members ──▶ the store                                    serve (serve.go)
//
// Accept and apply share nothing but the log: what accept writes, apply reads back with the records of all other
// origins, by the same rules (package view) in every region. Apply never rejects. Who may write what is decided at
// accept, with this region's view.
//
// Limits: an instance applies the partitions it owns, in one loop. A conversation's submits are best sent to the owner
// of its partition, whose memory has its members; any other instance answers too, from the store.
package imserver
