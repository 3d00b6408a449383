package replicator

import (
	"testing"

	"github.com/antipode-im/antipode/im"
)

// TestTogether: the tails of sixteen long copies are read at once, of short ones more, and always of one at least.
func TestTogether(t *testing.T) {
	for _, c := range []struct {
		name    string
		records []int64 // of each copy
		want    int
	}{
		{"none", nil, 0},
		{"sixteen long ones", repeat(16, 5000), 16},
		{"seventeen", repeat(17, 5000), 16},
		{"short ones", repeat(100, 10), 100},
		{"empty ones between", append(repeat(16, 5000), 0, 0, 0, 7), 19},
	} {
		var parts []*part
		bounds := map[im.Partition]im.Bounds{}
		for i, n := range c.records {
			p := im.Partition{Topic: "msg.eu.direct", Number: i}
			parts = append(parts, &part{p: p})
			bounds[p] = im.Bounds{Start: 3, End: 3 + n}
		}
		if got := together(parts, bounds, 1024); got != c.want {
			t.Errorf("%s: %d of %d, want %d", c.name, got, len(parts), c.want)
		}
	}
}

func repeat(n int, records int64) []int64 {
	all := make([]int64, n)
	for i := range all {
		all[i] = records
	}
	return all
}
