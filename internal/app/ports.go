package app

import (
	"fmt"
	"math/rand/v2"
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

// The range that port 0 looks in: below what systems hand out to outgoing connections.
const (
	searchFrom = 21_000
	searchTo   = 32_000
)

// parseListen reads host:port.
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
	return ports{host, base}, nil
}

// claim binds the first port, which keeps the whole range for its holder: whoever wants the same range wants the same
// first port. A port of the range that is taken is an error that names it. Port 0 finds a range.
func (p ports) claim() (ports, net.Listener, error) {
	if p.base != 0 {
		l, err := p.claimRange()
		return p, l, err
	}
	// Ranges are tried from a random one on, so that several who look at once seldom meet.
	ranges := (searchTo - searchFrom) / portsInAll
	first := rand.IntN(ranges)
	for n := range ranges {
		p.base = searchFrom + (first+n)%ranges*portsInAll
		if l, err := p.claimRange(); err == nil {
			return p, l, nil
		}
	}
	return p, nil, fmt.Errorf("no %d free ports in a row were found on %s between %d and %d: name one with --listen",
		portsInAll, p.host, searchFrom, searchTo)
}

func (p ports) claimRange() (net.Listener, error) {
	taken := func(n int, err error) error {
		return fmt.Errorf("port %d on %s cannot be used (dev needs %d to %d): %w: stop what uses it, or choose others with --listen",
			p.base+n, p.host, p.base, p.base+portsInAll-1, err)
	}
	first, err := net.Listen("tcp", p.at(0))
	if err != nil {
		return nil, taken(0, err)
	}
	for n := 1; n < portsInAll; n++ {
		l, err := net.Listen("tcp", p.at(n))
		if err != nil {
			first.Close()
			return nil, taken(n, err)
		}
		l.Close()
	}
	return first, nil
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
