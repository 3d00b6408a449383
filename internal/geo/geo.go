// Package geo tells where an address is, from databases in MaxMind's format (.mmdb): one of cities or countries, one of
// autonomous systems, or both. Files that change are read anew; one that cannot be read, or is no database, leaves the last
// good one in place.
package geo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/antipode-im/antipode/im"
)

// Config names the files.
type Config struct {
	City   string        // of cities or countries; may be empty
	ASN    string        // of autonomous systems; may be empty
	Every  time.Duration // how often to look whether they changed [10 s]
	Logger *slog.Logger
}

// Database answers from the latest files. Find may be called from many goroutines.
type Database struct {
	cfg       Config
	city, asn *source
}

// source is one file.
type source struct {
	path    string
	decode  func(maxminddb.Result, *im.Location) error
	current atomic.Pointer[loaded]
	seen    os.FileInfo // when it was read, or refused, last
}

// loaded is one version of a file. It is read into memory, not mapped: a mapped file that is written over in place would
// change under answers, or end them with SIGBUS; and the collector takes it when the last answer is done with it.
type loaded struct {
	reader  *maxminddb.Reader
	records sync.Map // offset of a record → im.Location: there are far fewer than networks, and decoding allocates
}

// city is what is read of a record of cities or countries.
type city struct {
	Country struct {
		ISO string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	Location struct {
		Lat *float64 `maxminddb:"latitude"`
		Lon *float64 `maxminddb:"longitude"`
	} `maxminddb:"location"`
}

// Open reads the files. A file that cannot be read now is an error.
func Open(cfg Config) (*Database, error) {
	if cfg.Every <= 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Database{cfg: cfg}
	if cfg.City != "" {
		d.city = &source{path: cfg.City, decode: decodeCity}
	}
	if cfg.ASN != "" {
		d.asn = &source{path: cfg.ASN, decode: decodeASN}
	}
	for _, s := range []*source{d.city, d.asn} {
		if s != nil {
			if _, err := s.refresh(); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func decodeCity(r maxminddb.Result, at *im.Location) error {
	var c city
	if err := r.Decode(&c); err != nil {
		return err
	}
	at.Country = strings.ToUpper(c.Country.ISO)
	if c.Location.Lat != nil && c.Location.Lon != nil {
		at.Lat, at.Lon, at.Placed = *c.Location.Lat, *c.Location.Lon, true
	}
	return nil
}

func decodeASN(r maxminddb.Result, at *im.Location) error {
	var a struct {
		Number uint32 `maxminddb:"autonomous_system_number"`
	}
	if err := r.Decode(&a); err != nil {
		return err
	}
	at.ASN = a.Number
	return nil
}

// Find returns what is known of an address; an empty Location if that is nothing.
func (d *Database) Find(ip netip.Addr) (at im.Location) {
	if d.city != nil {
		at = d.city.find(ip)
	}
	if d.asn != nil {
		at.ASN = d.asn.find(ip).ASN
	}
	return at
}

func (s *source) find(ip netip.Addr) im.Location {
	l := s.current.Load()
	r := l.reader.Lookup(ip.Unmap())
	if r.Err() != nil || !r.Found() {
		return im.Location{}
	}
	if at, ok := l.records.Load(r.Offset()); ok {
		if at, ok := at.(im.Location); ok {
			return at
		}
	}
	var at im.Location
	if s.decode(r, &at) != nil {
		return im.Location{}
	}
	l.records.Store(r.Offset(), at)
	return at
}

// refresh reads the file if it is another one than last time.
func (s *source) refresh() (changed bool, err error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return false, fmt.Errorf("geo: %w", err)
	}
	if s.seen != nil && os.SameFile(info, s.seen) && info.ModTime().Equal(s.seen.ModTime()) && info.Size() == s.seen.Size() {
		return false, nil
	}
	s.seen = info // a file that is no good is not read again before it changes
	b, err := os.ReadFile(s.path)
	if err != nil {
		return false, fmt.Errorf("geo: %w", err)
	}
	reader, err := maxminddb.OpenBytes(b)
	if err == nil {
		err = s.try(reader)
	}
	if err != nil {
		return false, fmt.Errorf("geo: %s is no database in MaxMind's format, or a damaged one: %w", s.path, err)
	}
	s.current.Store(&loaded{reader: reader})
	return true, nil
}

// try looks some addresses up, so that a file that was cut short is not taken.
func (s *source) try(r *maxminddb.Reader) error {
	if r.Metadata.NodeCount == 0 {
		return errors.New("it has no networks")
	}
	for i := range 256 {
		ip := netip.AddrFrom4([4]byte{byte(i), byte(i * 7), byte(i * 13), 1})
		result := r.Lookup(ip)
		if err := result.Err(); err != nil {
			return err
		}
		if result.Found() {
			var at im.Location
			if err := s.decode(result, &at); err != nil {
				return err
			}
		}
	}
	return nil
}

// Run looks for changes of the files until ctx ends.
func (d *Database) Run(ctx context.Context) error {
	t := time.NewTicker(d.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			d.Refresh()
		case <-ctx.Done():
			return nil
		}
	}
}

// Refresh reads the files that changed. What cannot be read is told to the logger, and the last good one stays.
func (d *Database) Refresh() {
	for _, s := range []*source{d.city, d.asn} {
		if s == nil {
			continue
		}
		changed, err := s.refresh()
		switch {
		case err != nil:
			d.cfg.Logger.Warn("the last good database stays", "error", err)
		case changed:
			m := s.current.Load().reader.Metadata
			d.cfg.Logger.Info("database read", "file", s.path, "type", m.DatabaseType, "built", m.BuildTime())
		}
	}
}
