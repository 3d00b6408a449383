package app

import (
	"math"
	"strings"
	"testing"
)

func TestDevRefusesImpossibleSample(t *testing.T) {
	for _, sample := range []float64{-0.1, 1.1, 3, math.NaN()} {
		d, err := NewDev(DevConfig{Regions: []string{"eu"}, Listen: "127.0.0.1:0", Data: t.TempDir(), Sample: sample})
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "--sample") {
			t.Errorf("%v: %v", sample, err)
		}
	}
}
