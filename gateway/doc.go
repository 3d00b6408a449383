// Package gateway holds the sockets of clients.
//
//	client ──ws──▶ conn ──call──▶ Backend (by service name)
//	  ▲              │
//	  │           session ◀─push, kick─ Routers ◀── routers
//	  └── frames ────┘         ▲
//	                           └─ claims: which session has which device's route
//
// A conn is one socket and has no goroutine: a poller's loop hands it what came (package poll), a flusher writes what it
// has to say, a timing wheel tells when its time is up (package wheel), and between two frames it holds no buffer (package
// ws). A goroutine is made for as long as something waits for others: a login, a call. A session is a login that survives
// its sockets: it numbers the pushes, keeps them until the client acknowledged them, and waits out the resume window
// without a socket. The session, not the conn, is the target of pushes: a conn only tells up to which number it was sent.
//
// A conn's socket is a WebSocket, or a long poll (longpoll.go): requests whose answers wait for what there is to say. Such a conn
// costs a goroutine and the buffers of an HTTP connection while a request is held, some 30 KB, and cannot be moved to another
// process.
//
// docs/protocol.md is what clients may rely on. Nothing here decodes a body, except to turn JSON into protobuf and back, and
// to see whether a receipt that waits is replaced by a later one:
// a service behind the gateway is added without changing it.
//
// Limits. Everything that a client can make grow is bounded: conns, conns of an address, long polls, a frame, calls under way, calls
// queued behind a key, unacknowledged pushes (in number and bytes), queued replies (in bytes), sessions without a socket
// (by the resume window and by the number of conns). A gateway that drains gives its sessions up to others (giveup.go); with one
// that crashes they are lost: clients log in elsewhere and pull.
package gateway
