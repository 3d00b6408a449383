package routes_test

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// FuzzModel looks for logs and interleavings in which the table is not the dumb version.
func FuzzModel(f *testing.F) {
	seed(f)
	f.Fuzz(rapid.MakeFuzz(holdToModel))
}

// seed adds a few inputs, long enough that the property draws all it wants from them.
func seed(f *testing.F) {
	for n := range byte(4) {
		b := make([]byte, 64<<10)
		rand.NewChaCha8([32]byte{n}).Read(b) // never fails
		f.Add(b)
	}
}
