package owner

import lru "github.com/hashicorp/golang-lru/v2"

// memory is what a shard remembers of its store, the least recently used forgotten first. What batches changed, or are
// about to, is held until they are committed: the store has older values of it, and may have them for long.
type memory[K comparable, V any] struct {
	recent *lru.Cache[K, V]
	held   map[K]held[V]
}

type held[V any] struct {
	value V
	batch uint64 // the last that needs it
}

func newMemory[K comparable, V any](size int) memory[K, V] {
	recent, err := lru.New[K, V](size)
	if err != nil {
		panic("owner: " + err.Error()) // of a size below 1 only
	}
	return memory[K, V]{recent: recent, held: map[K]held[V]{}}
}

func (m *memory[K, V]) get(k K) (V, bool) {
	if h, ok := m.held[k]; ok {
		return h.value, true
	}
	return m.recent.Get(k)
}

// add remembers what the store has. Nothing newer may be remembered.
func (m *memory[K, V]) add(k K, v V) { m.recent.Add(k, v) }

// hold remembers a value until a batch is committed.
func (m *memory[K, V]) hold(k K, v V, batch uint64) { m.held[k] = held[V]{v, batch} }

// release says that the store has what was held until a batch.
func (m *memory[K, V]) release(batch uint64) {
	for k, h := range m.held {
		if h.batch <= batch {
			m.recent.Add(k, h.value)
			delete(m.held, k)
		}
	}
}
