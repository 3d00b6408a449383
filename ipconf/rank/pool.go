package rank

import "math/bits"

// pool draws members by weight, in constant time: Vose's alias method.
type pool struct {
	members []int32
	accept  []uint32 // of a bucket: below it, its own member is drawn, else its alias
	alias   []int32  // index in members
}

// build prepares the buckets; weights are by gateway. scratch is reused.
func (p *pool) build(weights []float64, scratch []int32) []int32 {
	n := len(p.members)
	if n == 0 {
		return scratch
	}
	total := 0.0
	for _, m := range p.members {
		total += weights[m]
	}
	p.accept, p.alias = make([]uint32, n), make([]int32, n)
	if cap(scratch) < n {
		scratch = make([]int32, n)
	}
	scratch = scratch[:n]
	part := make([]float64, n)
	small, large := 0, n // small ones grow from the front of scratch, large ones from the back
	for i, m := range p.members {
		part[i] = weights[m] * float64(n) / total
		if part[i] < 1 {
			scratch[small] = int32(i)
			small++
		} else {
			large--
			scratch[large] = int32(i)
		}
	}
	for small > 0 && large < n {
		small--
		s, l := scratch[small], scratch[large]
		p.accept[s], p.alias[s] = uint32(part[s]*(1<<32-1)), l
		part[l] -= 1 - part[s]
		if part[l] < 1 {
			large++
			scratch[small] = l
			small++
		}
	}
	for ; small > 0; small-- { // rounding left them
		p.accept[scratch[small-1]] = 1<<32 - 1
	}
	for ; large < n; large++ {
		p.accept[scratch[large]] = 1<<32 - 1
	}
	return scratch
}

// pick draws a gateway. The pool must not be empty.
func (p *pool) pick(d *dice) int32 {
	bucket, rest := bits.Mul64(d.next(), uint64(len(p.members)))
	if uint32(rest>>32) > p.accept[bucket] {
		bucket = uint64(p.alias[bucket])
	}
	return p.members[bucket]
}

// dice is a small generator (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// part is uniform in [0, 1).
func (d *dice) part() float64 { return float64(d.next()>>11) / (1 << 53) }
