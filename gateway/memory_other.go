//go:build !linux

package gateway

// memoryBytes is not known here.
func memoryBytes() uint64 { return 0 }
