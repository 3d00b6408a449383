// Package process runs one server as a process of the operating system, and leaves nothing of it behind: not when it is
// stopped or killed, not when it crashes, and not when the process that started it is killed itself.
//
// It knows nothing of what it runs. The servers that a region needs are described by internal/backend.
package process
