package replicator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Peer is another region and the origin whose log it writes now.
type Peer struct {
	Region im.Region
	Origin im.Origin
}

// Config of a replicator. Zero values take the defaults of DefaultConfig.
type Config struct {
	Region     im.Region // own
	Origin     im.Origin // own log's
	Peers      []Peer
	Sealed     []im.Origin // whose logs are sealed in other regions: what is lacking of them is taken from there
	Partitions int         // of every topic, in every region

	Via          map[im.Region]im.Region // of a peer that cannot be reached: the region from whose copy its log is taken, always
	StandIns     []im.Region             // from whose copies, in turn, any log is taken while its own way does not work; none: it is waited for
	StandInAfter time.Duration           // for how long it must not have worked; 30 s

	WindowBytes    int           // bytes under way on a link before the receiver gives credit back, at most: it begins with 8 MiB and grows until half of it, one lane's share, is twice what the link carries in a round trip; 32 MiB
	BatchBytes     int           // the most uncompressed bytes in one message, unless one record is larger; 512 KiB
	Compression    Compression   // of what is sent; CompressCapped
	CompressAbove  int           // batches larger than this are compressed, bytes; 1 KiB
	Caps           []Cap         // on the bytes a second of what is sent
	NotifyQueue    int           // notify batches waiting for a link, and for the own router; 256
	NotifyAge      time.Duration // a notify that waited longer is dropped: a pull will have fetched it; 1 s
	HeldLinger     time.Duration // between reads of a copy that bring something, so that its origin is told of many records with one message; a global ack waits for it; 10 ms
	StatusInterval time.Duration // between statuses of a link; 1 s
	LinkTimeout    time.Duration // a link that is silent for longer is dropped and opened again; 5 s
	AppendTimeout  time.Duration // of one append to a copy; 10 s
	ReadTimeout    time.Duration // of one read, bounds or positions call; 10 s
	BackoffBase    time.Duration // first wait before a link is opened again, jittered; 100 ms
	BackoffMax     time.Duration // the longest; 5 s
	FillPatience   time.Duration // a copy of a lost region is given up that gets nothing of what it lacks for so long; 1 min
	ScanRecords    int           // how many records at the end of a copy are read to find its tail, at least; 1024
}

// Compression says which links are compressed (zstd, once: the receiver appends what came). Compression takes more of the
// processors than everything else that shipping does, and less than half of the bytes are left.
type Compression string

// The choices.
const (
	CompressCapped Compression = "capped" // links that a cap holds back now
	CompressAlways Compression = "always"
	CompressNever  Compression = "never"
)

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		WindowBytes: 32 << 20, BatchBytes: 512 << 10, CompressAbove: 1 << 10, Compression: CompressCapped,
		NotifyQueue: 256, NotifyAge: time.Second,
		StandInAfter: 30 * time.Second,
		HeldLinger:   10 * time.Millisecond, StatusInterval: time.Second, LinkTimeout: 5 * time.Second,
		AppendTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		BackoffBase: 100 * time.Millisecond, BackoffMax: 5 * time.Second,
		FillPatience: time.Minute,
		ScanRecords:  1024,
	}
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	if c.Compression == "" {
		c.Compression = d.Compression
	}
	or(&c.WindowBytes, d.WindowBytes)
	or(&c.BatchBytes, d.BatchBytes)
	or(&c.CompressAbove, d.CompressAbove)
	or(&c.NotifyQueue, d.NotifyQueue)
	or(&c.ScanRecords, d.ScanRecords)
	orTime(&c.StandInAfter, d.StandInAfter)
	orTime(&c.NotifyAge, d.NotifyAge)
	orTime(&c.HeldLinger, d.HeldLinger)
	orTime(&c.StatusInterval, d.StatusInterval)
	orTime(&c.LinkTimeout, d.LinkTimeout)
	orTime(&c.AppendTimeout, d.AppendTimeout)
	orTime(&c.ReadTimeout, d.ReadTimeout)
	orTime(&c.BackoffBase, d.BackoffBase)
	orTime(&c.BackoffMax, d.BackoffMax)
	orTime(&c.FillPatience, d.FillPatience)
	return c
}

func (c Config) check() error {
	if _, err := im.ParseRegion(string(c.Region)); err != nil {
		return fmt.Errorf("replicator: own %w", err)
	}
	if _, err := im.ParseOrigin(string(c.Origin)); err != nil {
		return fmt.Errorf("replicator: own %w", err)
	}
	if c.Origin.Region() != c.Region {
		return fmt.Errorf("replicator: origin %s is not of region %s", c.Origin, c.Region)
	}
	if c.Partitions < 1 {
		return fmt.Errorf("replicator: %d partitions; want 1 or more", c.Partitions)
	}
	switch c.Compression {
	case CompressCapped, CompressAlways, CompressNever:
	default:
		return fmt.Errorf("replicator: compression %q; want capped, always or never", c.Compression)
	}
	seen := map[im.Region]bool{c.Region: true}
	for _, p := range c.Peers {
		if _, err := im.ParseOrigin(string(p.Origin)); err != nil {
			return fmt.Errorf("replicator: peer %s: %w", p.Region, err)
		}
		if p.Origin.Region() != p.Region {
			return fmt.Errorf("replicator: peer %s: origin %s is of another region", p.Region, p.Origin)
		}
		if seen[p.Region] {
			return fmt.Errorf("replicator: region %s is named twice", p.Region)
		}
		seen[p.Region] = true
	}
	for peer, via := range c.Via {
		if via == peer || via == c.Region || peer == c.Region {
			return fmt.Errorf("replicator: the log of %s cannot be taken from %s in %s: want a third region", peer, via, c.Region)
		}
	}
	if slices.Contains(c.StandIns, c.Region) {
		return fmt.Errorf("replicator: region %s cannot stand in for a way to itself", c.Region)
	}
	for _, cap := range c.Caps {
		if !seen[cap.Peer] || cap.Peer == c.Region {
			return fmt.Errorf("replicator: a cap on the link to %s, which is no peer", cap.Peer)
		}
		if cap.BytesPerSecond < 1 {
			return fmt.Errorf("replicator: a cap of %d bytes a second on the link to %s; want 1 or more", cap.BytesPerSecond, cap.Peer)
		}
	}
	return nil
}

// partitions lists every partition of an origin's log, in the order in which a link names them.
func (c Config) partitions(o im.Origin) []im.Partition {
	topics := im.Topics(o)
	all := make([]im.Partition, 0, len(topics)*c.Partitions)
	for _, t := range topics {
		for n := range c.Partitions {
			all = append(all, im.Partition{Topic: t, Number: n})
		}
	}
	return all
}

// Log is the region's own Kafka: the own log and the copies of the others'.
type Log interface {
	Append(ctx context.Context, p im.Partition, entries []im.Entry) (first int64, err error)
	Bounds(ctx context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error)
	Read(ctx context.Context, p im.Partition, from int64, maxBytes int) ([]im.Entry, error)
	// ReadEach reads about maxBytes of each of many partitions together. Those of which it brings nothing it does not name, though
	// they may have something there: Read has it, or tells why not.
	ReadEach(ctx context.Context, from map[im.Partition]int64, maxBytes int) map[im.Partition][]im.Entry
}

// Reader reads many partitions on, by their local offsets. It is used from one goroutine. A Poll whose context ended
// returned nothing, and the next one goes on from the same offsets.
type Reader interface {
	Poll(ctx context.Context) ([]im.Batch, error)
	Seek(p im.Partition, offset int64)
	Drop(p im.Partition)
	Close()
}

// Packing is what a Log can do that ships records without decoding them.
type Packing interface {
	// NewPacker returns a reader whose batches are packed, under the link generation of links: 0.
	NewPacker(from map[im.Partition]int64) Reader
	// NewHeadReader returns a reader of copies whose batches are heads.
	NewHeadReader(from map[im.Partition]int64) Reader
	// StartPacked begins to append each to the partition that is named in it, together where that is possible, and calls each Then
	// once: when it is known what became of it, or soon after ctx ends.
	StartPacked(ctx context.Context, limit time.Duration, all []im.PackedAppend)
	// Recycle takes the memory of what NewPacker's reader returned: nobody reads its Bytes any more.
	Recycle(p *im.Packed)
	// Unpack decodes; the entries have their origin offsets.
	Unpack(p *im.Packed) ([]im.Entry, error)
}

// Dialer opens links to peers.
type Dialer interface {
	Link(ctx context.Context, peer im.Region) (wire.LinkReceiver, error)
}

// Applied tells how far a view of the own region has applied an origin's log: imservers for msg.* and read.*, routers
// for route.*. It is asked as far as it answers.
type Applied interface {
	Positions(ctx context.Context, o im.Origin) ([]im.Position, error)
}

// Notifier is the own region's router: it takes deliveries that came over a link.
type Notifier interface {
	Notify(ctx context.Context, from im.Region, ds []im.Delivery) error
}

// Deps are what a replicator works with.
type Deps struct {
	Log       Log
	NewReader func(from map[im.Partition]int64) Reader
	Packing   Packing // nil: records are shipped entry by entry
	Dialer    Dialer
	Keeper    Keeper           // nil: copies keep their seals as long as Kafka keeps records
	Copies    Copies           // nil: no copy is filled from another region's
	Applied   []Applied        // may be empty
	Snapshots Snapshots        // nil: no other region is seeded from this one
	Notifier  Notifier         // nil: notifies are dropped
	Now       func() time.Time // nil: time.Now

	Logger *slog.Logger
	Tracer trace.Tracer
	Meter  metric.Meter
}

func (d Deps) check() error {
	switch {
	case d.Log == nil:
		return errors.New("replicator: no log")
	case d.NewReader == nil:
		return errors.New("replicator: no reader of logs")
	case d.Dialer == nil:
		return errors.New("replicator: no dialer")
	}
	return nil
}
