// Package embedded runs the servers that a region needs inside, or beside, one process: PostgreSQL as a child process,
// Redis (miniredis) and Kafka (kfake) in the process itself. `antipode dev` and tests use it; production never does.
//
// Everything listens on the host it is given, loopback unless told otherwise, and keeps its files in the folder it is
// given. What starts here stops with Stop, or dies like a crashed server with Kill.
package embedded
