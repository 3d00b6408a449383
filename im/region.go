package im

import (
	"fmt"
	"strconv"
	"strings"
)

// Region names one failure domain: its own Kafka, PostgreSQL, Redis and discovery. It matches [a-z0-9-]+.
type Region string

// ParseRegion checks the form of a region's name.
func ParseRegion(s string) (Region, error) {
	if s == "" || len(s) > 32 {
		return "", fmt.Errorf("region %q: want 1 to 32 of a-z, 0-9 and -", s)
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return "", fmt.Errorf("region %q: %q is not one of a-z, 0-9 and -", s, c)
		}
	}
	return Region(s), nil
}

// Origin names the log a record was first appended to: a region and its epoch. The first epoch of region eu is written
// "eu"; the second, after eu started over with an empty log, "eu.2".
type Origin string

// NewOrigin returns the origin of a region in its epoch (1 is the first).
func NewOrigin(r Region, epoch uint32) Origin {
	if epoch <= 1 {
		return Origin(r)
	}
	return Origin(string(r) + "." + strconv.FormatUint(uint64(epoch), 10))
}

// ParseOrigin checks the form of an origin: a region, or region.epoch with an epoch of 2 or more.
func ParseOrigin(s string) (Origin, error) {
	region, epoch, dotted := strings.Cut(s, ".")
	if _, err := ParseRegion(region); err != nil {
		return "", fmt.Errorf("origin %q: %w", s, err)
	}
	if dotted {
		n, err := strconv.ParseUint(epoch, 10, 32)
		if err != nil || n < 2 || strconv.FormatUint(n, 10) != epoch {
			return "", fmt.Errorf("origin %q: the epoch after the dot must be a number from 2", s)
		}
	}
	return Origin(s), nil
}

// Region is the region whose log this is.
func (o Origin) Region() Region {
	region, _, _ := strings.Cut(string(o), ".")
	return Region(region)
}

// Epoch is the origin epoch: 1 for "eu", 2 for "eu.2".
func (o Origin) Epoch() uint32 {
	_, epoch, dotted := strings.Cut(string(o), ".")
	if !dotted {
		return 1
	}
	n, _ := strconv.ParseUint(epoch, 10, 32)
	return uint32(n)
}
