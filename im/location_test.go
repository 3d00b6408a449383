package im

import (
	"math"
	"testing"
)

func TestKilometres(t *testing.T) {
	frankfurt, virginia, sydney := Location{Lat: 50.11, Lon: 8.68}, Location{Lat: 38.95, Lon: -77.45}, Location{Lat: -33.87, Lon: 151.21}
	for _, c := range []struct {
		a, b Location
		want float64
	}{{frankfurt, frankfurt, 0}, {frankfurt, virginia, 6555}, {virginia, frankfurt, 6555}, {frankfurt, sydney, 16480}} {
		if got := c.a.Kilometres(c.b); math.Abs(got-c.want) > 30 {
			t.Errorf("%+v to %+v: %.0f km, want %.0f", c.a, c.b, got, c.want)
		}
	}
}
