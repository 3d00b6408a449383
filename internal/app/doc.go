// Package app is the composition root: the one place that sees services and adapters at once.
//
//	build.go      a builder per service, from configuration and an Env (discovery, telemetry, certificates)
//	migrate.go    topics with their record 0, and database schemas
//	region.go     all services of one region as units that can be killed and started again
//	dev.go        antipode dev: regions in one process over embedded parts, linked through faultnet
//	cluster.go    antipode cluster: regions of real servers, each part a process, over internal/cluster
//
// antipode dev calls the same builders as a production process; only the Env differs.
package app
