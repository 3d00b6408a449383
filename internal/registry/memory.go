package registry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// DefaultTTL is how long an instance that stopped renewing stays listed.
const DefaultTTL = 3 * time.Second

// Memory is a registry inside one process, for all its regions, as federated datacenters would be. It is safe for
// concurrent use.
type Memory struct {
	ttl time.Duration

	mu      sync.Mutex
	entries map[key]*lease
	states  map[im.Region]im.RegionState
	members map[im.Region]im.Member
	silent  map[im.Region]bool
	empty   map[im.Region]bool
	changed chan struct{} // closed and replaced at every change
}

type key struct {
	region      im.Region
	service, id string
}

func keyOf(i *im.Instance) key { return key{i.Region, i.Service, i.ID} }

// NewMemory returns an empty registry. ttl is how long an abandoned instance stays listed; DefaultTTL if 0.
func NewMemory(ttl time.Duration) *Memory {
	return &Memory{
		ttl:     cmp.Or(ttl, DefaultTTL),
		entries: map[key]*lease{},
		states:  map[im.Region]im.RegionState{},
		members: map[im.Region]im.Member{},
		silent:  map[im.Region]bool{},
		empty:   map[im.Region]bool{},
		changed: make(chan struct{}),
	}
}

// notify wakes every watcher. m.mu is held.
func (m *Memory) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// SetSilent makes the registry stop answering for a region, or answer again: reads and registrations fail, watches
// stand still, and nothing expires meanwhile is seen.
func (m *Memory) SetSilent(r im.Region, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent[r] = on
	m.notify()
}

// SetEmpty makes the registry answer for a region that it has no instances, as a catalogue that lost its memory does, or
// answer truly again.
func (m *Memory) SetEmpty(r im.Region, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.empty[r] = on
	m.notify()
}

// Register implements Registry.
func (m *Memory) Register(ctx context.Context, i im.Instance) (Lease, error) {
	if i.Service == "" || i.ID == "" || i.Region == "" {
		return nil, fmt.Errorf("registry: instance %q of service %q in region %q: all three must be set", i.ID, i.Service, i.Region)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent[i.Region] {
		return nil, ErrSilent
	}
	l := &lease{memory: m, instance: clone(i), lost: make(chan struct{})}
	if former := m.entries[keyOf(&i)]; former != nil {
		if former.expiry != nil {
			former.expiry.Stop()
		} else {
			close(former.lost)
		}
	}
	m.entries[keyOf(&i)] = l
	m.notify()
	return l, nil
}

// Instances implements Registry.
func (m *Memory) Instances(ctx context.Context, service string, r im.Region) ([]im.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent[r] {
		return nil, ErrSilent
	}
	return m.list(service, r), nil
}

// list returns a service's instances in a region. m.mu is held.
func (m *Memory) list(service string, r im.Region) []im.Instance {
	var list []im.Instance
	if m.empty[r] {
		return list
	}
	for k, l := range m.entries {
		if k.region == r && (service == "" || k.service == service) {
			list = append(list, clone(l.instance))
		}
	}
	slices.SortFunc(list, func(a, b im.Instance) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.ID, b.ID))
	})
	return list
}

// Watch implements Registry.
func (m *Memory) Watch(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error {
	return watch(ctx, m, func() ([]im.Instance, bool) { return m.list(service, r), !m.silent[r] }, equal, fn)
}

// watch calls fn with what read returns, at once and whenever it differs. read is called with m.mu held; false means no
// answer.
func watch[T any](ctx context.Context, m *Memory, read func() ([]T, bool), equal func(a, b T) bool, fn func([]T)) error {
	var last []T
	for told := false; ; {
		m.mu.Lock()
		list, ok := read()
		changed := m.changed
		m.mu.Unlock()
		if ok && (!told || !slices.EqualFunc(list, last, equal)) {
			fn(slices.Clone(list))
			last, told = list, true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// SetRegionState implements States.
func (m *Memory) SetRegionState(ctx context.Context, s im.RegionState) error {
	if _, err := im.ParseState(string(s.State)); err != nil {
		return err
	}
	if _, err := im.ParseRegion(string(s.Region)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if stands, ok := m.states[s.Region]; !ok || s.Compare(stands) > 0 {
		m.states[s.Region] = s
		m.notify()
	}
	return nil
}

// RegionStates implements States.
func (m *Memory) RegionStates(ctx context.Context) ([]im.RegionState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listStates(), nil
}

func (m *Memory) listStates() []im.RegionState {
	return slices.SortedFunc(maps.Values(m.states), func(a, b im.RegionState) int { return cmp.Compare(a.Region, b.Region) })
}

// WatchRegionStates implements States.
func (m *Memory) WatchRegionStates(ctx context.Context, fn func([]im.RegionState)) error {
	return watch(ctx, m, func() ([]im.RegionState, bool) { return m.listStates(), true },
		func(a, b im.RegionState) bool { return a == b }, fn)
}

// SetMember implements Members.
func (m *Memory) SetMember(ctx context.Context, member im.Member) error {
	if err := member.Check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if stands, ok := m.members[member.Region]; !ok || member.Compare(stands) > 0 {
		m.members[member.Region] = member
		m.notify()
	}
	return nil
}

// Members implements Members.
func (m *Memory) Members(ctx context.Context) ([]im.Member, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listMembers(), nil
}

func (m *Memory) listMembers() []im.Member {
	return slices.SortedFunc(maps.Values(m.members), func(a, b im.Member) int { return cmp.Compare(a.Region, b.Region) })
}

// WatchMembers implements Members.
func (m *Memory) WatchMembers(ctx context.Context, fn func([]im.Member)) error {
	return watch(ctx, m, func() ([]im.Member, bool) { return m.listMembers(), true }, im.Member.Equal, fn)
}

// lease is one registration. Its fields are guarded by memory.mu.
type lease struct {
	memory   *Memory
	instance im.Instance
	expiry   *time.Timer // set once abandoned
	lost     chan struct{}
}

func (l *lease) Lost() <-chan struct{} { return l.lost }

// holds tells whether this lease, and not a later one, holds the instance. memory.mu is held.
func (l *lease) holds() bool { return l.memory.entries[keyOf(&l.instance)] == l }

func (l *lease) Update(i im.Instance) error {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	if keyOf(&i) != keyOf(&l.instance) {
		return fmt.Errorf("registry: update of %s/%s in %s names %s/%s in %s", l.instance.Service, l.instance.ID, l.instance.Region, i.Service, i.ID, i.Region)
	}
	if !l.holds() || l.expiry != nil {
		return ErrLeaseLost
	}
	if l.memory.silent[i.Region] {
		return ErrSilent
	}
	l.instance = clone(i)
	l.memory.notify()
	return nil
}

func (l *lease) Close() error {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	if l.expiry != nil {
		l.expiry.Stop()
	}
	l.remove()
	return nil
}

func (l *lease) Abandon() {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	if l.expiry != nil || !l.holds() {
		return
	}
	l.expiry = time.AfterFunc(l.memory.ttl, func() {
		l.memory.mu.Lock()
		defer l.memory.mu.Unlock()
		l.remove()
	})
}

// remove takes the instance out unless a later lease holds it. memory.mu is held.
func (l *lease) remove() {
	if l.holds() {
		delete(l.memory.entries, keyOf(&l.instance))
		l.memory.notify()
	}
}

func clone(i im.Instance) im.Instance {
	i.Serves = slices.Clone(i.Serves)
	return i
}

func equal(a, b im.Instance) bool {
	same := slices.Equal(a.Serves, b.Serves)
	a.Serves, b.Serves = nil, nil
	return same && a.Service == b.Service && a.ID == b.ID && a.Region == b.Region && a.Addr == b.Addr && a.URL == b.URL && a.WebTransport == b.WebTransport &&
		a.Epoch == b.Epoch && a.Draining == b.Draining
}
