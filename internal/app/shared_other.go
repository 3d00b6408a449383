//go:build !linux

package app

import "net"

// listenShared binds as usual: gateways take over from each other on Linux only.
func (s *Site) listenShared(string) func(addr string) (net.Listener, error) { return nil }
