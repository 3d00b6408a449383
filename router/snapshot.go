package router

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/wire"
)

// proof is what must be found in a log before what a snapshot holds of it counts: the log may have been created anew.
type proof struct {
	mark   routes.Mark
	bounds im.Bounds // at start
}

// load fills the table from the snapshot. What it returns is yet to be proven.
func (r *Router) load() map[im.Partition]routes.Mark {
	if r.deps.Snapshots == nil {
		return nil
	}
	began := time.Now()
	var marks map[im.Partition]routes.Mark
	err := r.deps.Snapshots.Load(func(in io.Reader) (err error) {
		names := make([]byte, 8+16*r.cfg.Partitions)
		if _, err := io.ReadFull(in, names); err != nil || xxhash.Sum64(names[8:]) != binary.LittleEndian.Uint64(names) {
			return errors.New("it is damaged, or of other partitions")
		}
		if marks, err = r.table.Load(in); err != nil {
			return err
		}
		for n := range r.cfg.Partitions {
			name := im.LogName{Origin: r.cfg.Origin}
			if copy(name.ID[:], names[8+16*n:]); name.ID != (im.UUID{}) {
				r.names.set(n, name)
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		r.log.Warn("the snapshot of the routes is of no use; the logs are read instead", "error", err)
		return nil
	}
	rows := 0
	for _, n := range r.table.Count() {
		rows += n
	}
	r.log.Info("routes were loaded from the snapshot", "routes", rows, "took", time.Since(began))
	return marks
}

// prove looks for the record that a snapshot was taken at. It returns why the log is not the one of the snapshot, if so.
func (r *Router) prove(b *im.Batch) (why string) {
	want, ok := r.unproven[b.Partition]
	if !ok || len(b.Entries) == 0 {
		return ""
	}
	first := &b.Entries[0]
	if first.Offset != want.mark.Local || wire.DecodeHead(first).OriginOffset != want.mark.Offset || wire.Checksum(first) != want.mark.Checksum {
		return "the log is not the one that the snapshot was taken of"
	}
	delete(r.unproven, b.Partition)
	r.table.Expect(b.Partition, want.bounds.End)
	return ""
}

// restart gives up what a snapshot held of a partition, and returns where its log is to be read from.
func (r *Router) restart(p im.Partition) int64 {
	want, ok := r.unproven[p]
	if ok {
		delete(r.unproven, p)
		r.unname(p)
		r.table.Expect(p, want.bounds.End)
	}
	return want.bounds.Start
}

// unname forgets what an own partition is called: its log is another than the snapshot's.
func (r *Router) unname(p im.Partition) {
	if p.Origin() == r.cfg.Origin {
		r.names.set(p.Number, im.LogName{})
	}
}

// save writes what load reads: what the own log's partitions are called, which stands in records that are not read again,
// and the table.
func (r *Router) save(w io.Writer) error {
	names := make([]byte, 8, 8+16*r.cfg.Partitions)
	for n := range r.cfg.Partitions {
		id := r.names.get(n).ID
		names = append(names, id[:]...)
	}
	binary.LittleEndian.PutUint64(names, xxhash.Sum64(names[8:]))
	if _, err := w.Write(names); err != nil {
		return err
	}
	return r.table.Snapshot(w)
}

// snapshots saves the table now and then, and at the end.
func (r *Router) snapshots(ctx context.Context) {
	tick := time.NewTicker(r.cfg.SnapshotEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), im.ErrKilled) {
				return
			}
			ended = true
		}
		if !r.table.Ready(r.cfg.Origin) {
			continue // there is less in the table than in the snapshot that it was loaded from
		}
		if err := r.deps.Snapshots.Save(r.save); err != nil {
			r.log.Warn("the routes were not saved; a start will read more of the logs", "error", err)
		}
	}
}
