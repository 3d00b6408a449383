// Package ws is the server's side of RFC 6455, after the handshake: bytes to messages and back, without I/O.
//
// A Parser takes a client's bytes as they come, in pieces of any size, and keeps between two calls only what a frame or
// message that is under way needs: a conn that waits holds no buffer. Its state can be written down and taken up by
// another process, in the middle of a frame too, which is what a restart without a disconnect needs and a library that
// owns its conn cannot give.
//
// No extension is spoken, compression included: reserved bits are a protocol error. Limits: one message, fragments
// included, has at most the number of bytes given to Next; a control frame 125.
package ws
