// Package rpc carries the calls between services, both ends: gRPC with health checks, keepalive, deadlines, breakers,
// traces and the wire's error codes. rpc.go and dial.go are the ground; each other file is one service's two ends.
package rpc
