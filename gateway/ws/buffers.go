package ws

import (
	"math/bits"
	"sync"
)

// The classes of pooled buffers: powers of two from minClass to maxClass bytes. Larger ones are made and forgotten.
const (
	minClass = 9  // 512
	maxClass = 16 // 64 KiB
)

// Buffers lends buffers by size, so that only conns in the middle of something hold one. The zero value is ready. It is
// safe for concurrent use.
type Buffers struct {
	classes [maxClass - minClass + 1]sync.Pool // of *[]byte
}

// Get lends an empty buffer with room for n bytes at least.
func (p *Buffers) Get(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minClass)
	if class > maxClass {
		return make([]byte, 0, n)
	}
	if b, ok := p.classes[class-minClass].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<class)
}

// Put takes a buffer back; nothing may use it after that.
func (p *Buffers) Put(b []byte) {
	class := bits.Len(uint(cap(b))) - 1 // of the power of two that fits in it
	if class < minClass || class > maxClass {
		return
	}
	b = b[:0]
	p.classes[class-minClass].Put(&b)
}

// Append appends to a lent buffer, exchanging it for a larger one where it must.
func (p *Buffers) Append(b, more []byte) []byte {
	if len(b)+len(more) > cap(b) {
		larger := append(p.Get(max(len(b)+len(more), 2*cap(b))), b...)
		p.Put(b)
		b = larger
	}
	return append(b, more...)
}
