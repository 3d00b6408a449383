// Package cluster runs whole regions on this machine as an operator would run them on many: Kafka, PostgreSQL, Redis and
// Consul, and each service of Antipode as a process of its own with its own configuration file.
//
//	file.go      cluster.yaml: which regions, how many of what, where
//	plan.go      every member with its name, folder and addresses; pure
//	configs.go   the configuration file of every service; pure
//	folder.go    the data folder: marker, lock, what was asked for
//	backends.go  how each backend is run here; service.go how a service of Antipode is
//	member.go    one member: started, watched, started again, stopped, killed, paused
//	supervisor.go all members, in the order in which they depend on each other
//	migrate.go   topics, databases and schemas
//	added.go     regions that come while others run
//	links.go     links between regions pass proxies in this process, which delay and cut
//	sink.go      what members write: kept in files, shown
//	control.go   orders over HTTP, and who gives them
//
// A member is called region/part: eu/kafka, eu/imserver-1. An order may name one member, all of a kind (eu/imserver) or a
// region (eu). All processes die with this one, however it ends.
package cluster
