package im

import "math"

// Location is where an address or a region is, as far as that is known.
type Location struct {
	Country  string  // ISO 3166-1 alpha-2, upper case; empty: not known
	Lat, Lon float64 // degrees north and east
	Placed   bool    // Lat and Lon are known
	ASN      uint32  // autonomous system; 0: not known
}

// Kilometres is the distance to another place on a great circle of the Earth, taken for a ball of 6,371 km (haversine).
func (l Location) Kilometres(to Location) float64 {
	const radius, degree = 6371, math.Pi / 180
	half := func(x float64) float64 { s := math.Sin(x * degree / 2); return s * s }
	a := half(to.Lat-l.Lat) + math.Cos(l.Lat*degree)*math.Cos(to.Lat*degree)*half(to.Lon-l.Lon)
	return 2 * radius * math.Asin(math.Sqrt(min(1, a)))
}
