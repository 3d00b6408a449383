// Package ownership says which instance of a service owns which partition numbers, without a coordinator: every reader
// of the registry computes the same answer by rendezvous hashing over the live instances. Readers that see the list
// change at different moments disagree for as long; the views' positions make that harmless (one owner's commit wins).
//
// Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998), section 3: highest random
// weight. When an instance comes or goes, only its own partitions move.
package ownership

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/antipode-im/antipode/im"
)

// weight is what rendezvous hashing compares.
func weight(partition int, id string) uint64 {
	return xxhash.Sum64String(id + "/" + strconv.Itoa(partition))
}

// Eligible returns those of a service's instances that can own partitions: those that are not draining, or all of them
// when all are, because a partition without an owner would stand still.
func Eligible(instances []im.Instance) []im.Instance {
	staying := slices.DeleteFunc(slices.Clone(instances), func(i im.Instance) bool { return i.Draining })
	if len(staying) == 0 {
		return instances
	}
	return staying
}

// Pick returns which of a service's live instances owns a partition; false if there are none. Whoever computes it over
// the same list gets the same answer.
func Pick(partition int, live []im.Instance) (im.Instance, bool) {
	var owner im.Instance
	var highest uint64
	for n, i := range Eligible(live) {
		if w := weight(partition, i.ID); n == 0 || w > highest || w == highest && i.ID < owner.ID {
			owner, highest = i, w
		}
	}
	return owner, len(live) > 0
}

// Watcher is the part of a registry that ownership needs.
type Watcher interface {
	Watch(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error
}

// Config says whose partitions.
type Config struct {
	Service    string
	Region     im.Region
	Self       string // the id of this instance, for Owned; empty for a mere caller
	Partitions int    // how many there are
}

// Ownership follows the registry. It is safe for concurrent use.
type Ownership struct {
	cfg      Config
	registry Watcher

	mu      sync.Mutex
	live    []im.Instance // by id; the last list that was not empty
	owned   []int
	changed chan struct{} // closed and replaced when live changes
	heard   chan struct{} // closed by the first list
}

// New returns an Ownership that knows nothing until Run follows the registry.
func New(cfg Config, registry Watcher) *Ownership {
	return &Ownership{cfg: cfg, registry: registry, changed: make(chan struct{}), heard: make(chan struct{})}
}

// Run follows the registry until ctx ends.
func (o *Ownership) Run(ctx context.Context) error {
	err := o.registry.Watch(ctx, o.cfg.Service, o.cfg.Region, o.set)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("ownership of %s in %s: %w", o.cfg.Service, o.cfg.Region, err)
}

// set takes a new list. An empty one is not believed: a catalogue that lost its memory answers so, and with nobody left
// it would make no difference to whom callers turn in vain.
func (o *Ownership) set(live []im.Instance) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(live) == 0 {
		return
	}
	var owned []int
	for p := range o.cfg.Partitions {
		if owner, ok := Pick(p, live); ok && owner.ID == o.cfg.Self {
			owned = append(owned, p)
		}
	}
	first := o.live == nil
	o.live, o.owned = live, owned
	close(o.changed)
	o.changed = make(chan struct{})
	if first {
		close(o.heard)
	}
}

// Heard is closed once the registry answered for the first time.
func (o *Ownership) Heard() <-chan struct{} { return o.heard }

// Owned returns the partitions that this instance owns, ascending, and a channel that is closed when that may have
// changed. The slice is not to be modified.
func (o *Ownership) Owned() (partitions []int, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.owned, o.changed
}

// Live returns the live instances by id, draining ones included, and a channel that is closed when they change.
func (o *Ownership) Live() (instances []im.Instance, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.live), o.changed
}
