package app

import (
	"fmt"
	"net"
	"strconv"

	"github.com/antipode-im/antipode/im"
)

// The ports of antipode dev, counted from the one it is told to listen on:
//
//	+0                 pages, console API
//	+1                 PostgreSQL
//	+10 + 20·region    the region's parts, below
//	+170 + 8·from + to the link's proxy
const (
	portPostgres = 1
	portRegions  = 10
	portLinks    = 170
	perRegion    = 20
	maxRegions   = 8
	portsInAll   = portLinks + maxRegions*maxRegions
)

// The ports of a region, counted from its first.
const (
	portIPConf = iota
	portGateway1
	portGateway2
	portKafka
	portRedis
	portRPC                   // of each service, in the order of services
	portAdmin = portRPC + 6   // likewise
	portEnd   = portAdmin + 6 // must not exceed perRegion
)

// ports gives every part of dev its address.
type ports struct {
	host string
	base int
}

// parseListen reads host:port. Port 0 looks for a free range.
func parseListen(listen string) (ports, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ports{}, fmt.Errorf("--listen %q: want host:port: %w", listen, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	base, err := strconv.Atoi(port)
	if err != nil || base < 0 || base+portsInAll > 65535 {
		return ports{}, fmt.Errorf("--listen %q: want a port of at most %d, as dev uses the %d ports from it on", listen, 65535-portsInAll, portsInAll)
	}
	p := ports{host, base}
	if base == 0 {
		return p.findFree()
	}
	return p, nil
}

// findFree looks for a range of which every port is free now.
func (p ports) findFree() (ports, error) {
	for p.base = 21_000; p.base+portsInAll < 32_000; p.base += portsInAll {
		if p.free() {
			return p, nil
		}
	}
	return p, fmt.Errorf("no %d free ports in a row were found on %s between 21000 and 32000: name one with --listen", portsInAll, p.host)
}

func (p ports) free() bool {
	for n := range portsInAll {
		l, err := net.Listen("tcp", p.at(n))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func (p ports) at(n int) string { return net.JoinHostPort(p.host, strconv.Itoa(p.base+n)) }

func (p ports) region(index, n int) string { return p.at(portRegions + perRegion*index + n) }

func (p ports) link(from, to int) string { return p.at(portLinks + maxRegions*from + to) }

// parseRegions checks the names of dev's regions.
func parseRegions(names []string) ([]im.Region, error) {
	if len(names) == 0 || len(names) > maxRegions {
		return nil, fmt.Errorf("--regions: want 1 to %d names", maxRegions)
	}
	var regions []im.Region
	seen := map[im.Region]bool{}
	for _, name := range names {
		r, err := im.ParseRegion(name)
		if err != nil {
			return nil, fmt.Errorf("--regions: %w", err)
		}
		if seen[r] {
			return nil, fmt.Errorf("--regions: %s is named twice", r)
		}
		seen[r] = true
		regions = append(regions, r)
	}
	return regions, nil
}
