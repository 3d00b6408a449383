// Package wire turns bytes into the nouns of package im and back: log entries (log.go), the frames of client connections
// (frame.go), and the bodies of the service "im" (body.go). Nothing else in Antipode knows how a value is encoded.
//
// The shapes of frames and bodies are the generated protobuf types, aliased here so that services and the client need
// not import generated code, and no shape is written twice. What has a meaning of its own (cursors, stamps,
// conversations, ids, codes) crosses this package as a type of package im, checked.
package wire
