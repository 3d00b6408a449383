package rank

import (
	"time"
)

// Client is who asks. All fields are hints. The zero value is near the first region: use Nobody.
type Client struct {
	Want      int                // region that it or an operator's table wants, whatever its distance; -1: none
	Home      int                // region in which the user is at home; -1: none
	Near      int                // region of the ipconf that was asked; -1: none
	RTT       [MaxRegions]uint16 // milliseconds by region, measured or estimated; 0: not known
	Forbidden uint32             // regions that it must not be sent to, a bit each
	Last      int                // gateway it used last; -1: none or not known
	Canary    bool               // gets gateways of the canary version
}

// Nobody is a client of whom nothing is known.
func Nobody() Client { return Client{Want: -1, Home: -1, Near: -1, Last: -1} }

// Reason says why a gateway has its place.
type Reason uint8

// The reasons.
const (
	Drawn     Reason = iota // of the client's region, or the one that it was displaced to
	Displaced               // its own region did not take this client
	Other                   // of another region, for when the first cannot be reached, and to pull from
	LastUsed                // the one that it used last
)

func (r Reason) String() string {
	return [...]string{"drawn", "displaced", "of another region", "used last"}[r]
}

// Place is one gateway in an answer.
type Place struct {
	Gateway int
	Score   float32 // 0 to 1: the region's proximity times the gateway's score
	Why     Reason
}

// Standing is how one region looks to a client.
type Standing struct {
	Region    int
	RTT       time.Duration
	Proximity float64 // more than 1 where it is wanted or home
	Open      float64 // the probability that it takes this client, if it is the nearest
	Closed    string  // why it is left out; empty: it is not
}

func (t *Table) rtt(c *Client, i int) time.Duration {
	switch {
	case c.RTT[i] > 0:
		return time.Duration(c.RTT[i]) * time.Millisecond
	case c.Near == i:
		return t.settings.NearRTT
	}
	return t.settings.FarRTT
}

// lead is how many gateways of the first region come before those of the others, and the rest of it after them. Clients go
// through a list from its top, and a host that does not answer costs a timeout: when so many fail, it is the region.
const lead = 5

// wanted is added to the proximity of the wanted region, which is then above all others.
const wanted = 10

// Standing tells how the i-th region looks to a client.
func (t *Table) Standing(i int, c *Client) Standing {
	r := &t.regions[i]
	s := Standing{Region: i, RTT: t.rtt(c, i)}
	s.Proximity = 1 / (1 + float64(s.RTT)/float64(t.settings.RTTScale))
	if c.Home == i {
		s.Proximity *= t.settings.Home
	}
	if c.Want == i {
		s.Proximity += wanted
	}
	s.Open = r.Share * min(1, r.free()/t.settings.Spill)
	if c.Want != i {
		s.Open *= r.Ramp
	}
	switch {
	case c.Forbidden&(1<<i) != 0:
		s.Closed = "forbidden to this client"
	case r.Share <= 0:
		s.Closed = r.Why
	case r.usable == 0:
		s.Closed = "no usable gateway"
	case s.Open <= 0:
		s.Closed = "full"
	}
	return s
}

// Draw appends the gateways that a client should try, best first. It is empty if no region is open to it. seed makes the
// draw: pass a random one.
func (t *Table) Draw(dst []Place, c *Client, seed uint64) []Place {
	d := dice(seed)
	var open [MaxRegions]Standing
	n, nearest := 0, -1
	for i := range t.regions {
		if s := t.Standing(i, c); s.Closed == "" {
			if nearest < 0 || s.Proximity > open[nearest].Proximity {
				nearest = n
			}
			open[n] = s
			n++
		}
	}
	if n == 0 {
		return dst
	}
	luck := d.part()
	first, why := nearest, Drawn
	switch {
	case n > 1 && t.closedNearer(c, &open[nearest]):
		first, why = t.displace(open[:n], -1, &d), Displaced
	case n > 1 && luck >= open[nearest].Open:
		first, why = t.displace(open[:n], nearest, &d), Displaced
	}
	open[0], open[first] = open[first], open[0]
	for i := 1; i < n-1; i++ { // the others as who is displaced goes there: this is what happens if the first region dies
		next := i + t.displace(open[i:n], -1, &d)
		open[i], open[next] = open[next], open[i]
	}
	begin := len(dst)
	dst = t.last(dst, c, open[:n], luck)
	limit := max(perRegion, t.settings.Limit-perRegion*(n-1))
	dst = t.draw(dst, begin, &open[0], min(limit, lead), why, c.Canary, &d)
	for i := 1; i < n; i++ {
		dst = t.draw(dst, begin, &open[i], perRegion, Other, c.Canary, &d)
	}
	if r := &t.regions[open[0].Region]; limit > lead && len(r.stable.members)+len(r.canary.members) > lead {
		dst = t.draw(dst, begin, &open[0], limit-lead, why, c.Canary, &d)
	}
	return dst
}

// closedNearer tells whether a region takes nobody that would be nearer than the nearest open one: its clients are not the
// next one's to take alone. Regions that this client must not go to are not its own.
func (t *Table) closedNearer(c *Client, nearest *Standing) bool {
	for i := range t.regions {
		if c.Forbidden&(1<<i) != 0 || i == nearest.Region {
			continue
		}
		if s := t.Standing(i, c); s.Closed != "" && s.Proximity > nearest.Proximity {
			return true
		}
	}
	return false
}

// alike bounds by how much the proximities of two regions may differ until one counts as nearer: measured round trips jitter.
const alike = 1.25

// Order is a number of the order that a client has the regions in, by proximity. It stays the same while no region becomes
// nearer than another by a quarter, or stops to be.
func (t *Table) Order(c *Client) uint64 {
	var near [MaxRegions]float64
	for i := range t.regions {
		near[i] = t.Standing(i, c).Proximity
	}
	d := dice(len(t.regions))
	for i := range t.regions {
		for j := range i {
			switch {
			case near[i] > alike*near[j]:
				d++
			case near[j] > alike*near[i]:
				d += 2
			}
			d = dice(d.next())
		}
	}
	return uint64(d)
}

// displace chooses among the regions but one (-1: none) by their spare conns and proximity.
func (t *Table) displace(open []Standing, but int, d *dice) int {
	weight := func(i int) float64 {
		r, p := &t.regions[open[i].Region], open[i].Proximity
		return r.free() * r.capacity * r.Share * r.Ramp * p * p
	}
	total := 0.0
	for i := range open {
		if i != but {
			total += weight(i)
		}
	}
	at := d.part() * total
	chosen := max(but, 0)
	for i := range open {
		if i == but {
			continue
		}
		chosen = i
		if at -= weight(i); at < 0 {
			break
		}
	}
	return chosen
}

// last puts the gateway that the client used last first: it may hold its session. Not if it is full or gone, if its region
// does not let this client in, or if another is so much nearer that going back is worth a new session.
func (t *Table) last(dst []Place, c *Client, open []Standing, luck float64) []Place {
	if c.Last < 0 || c.Last >= len(t.gateways) || t.inverse[c.Last] == 0 {
		return dst
	}
	at := t.gateways[c.Last].Region
	for i := range open {
		s := &open[i]
		if s.Region != at {
			continue
		}
		if luck < t.regions[at].Share && 2*s.Proximity >= open[0].Proximity {
			dst = append(dst, Place{c.Last, t.of(s, c.Last), LastUsed})
		}
		break
	}
	return dst
}

func (t *Table) of(s *Standing, i int) float32 {
	return float32(min(1, s.Proximity)) * t.score[i]
}

// draw appends up to limit of a region's gateways, each drawn by the power of two choices.
func (t *Table) draw(dst []Place, begin int, s *Standing, limit int, why Reason, canary bool, d *dice) []Place {
	r := &t.regions[s.Region]
	pools := [2]*pool{&r.stable, &r.canary}
	if canary {
		pools[0], pools[1] = pools[1], pools[0]
	} else if len(r.stable.members) > 0 {
		pools[1] = nil // users of the stable version stay with it while it has room
	}
	for _, p := range pools {
		if p == nil || len(p.members) == 0 {
			continue
		}
		want := min(limit, len(p.members))
		got := 0
		for tries := 4*want + 8; got < want && tries > 0; tries-- {
			a := p.pick(d)
			if b := p.pick(d); t.served(b) < t.served(a) {
				a = b
			}
			if !taken(dst[begin:], a) {
				dst = append(dst, Place{int(a), t.of(s, int(a)), why})
				got++
			}
		}
		// A few were drawn again and again: the rest as they come.
		for from, i := int(d.next()%uint64(len(p.members))), 0; got < want && i < len(p.members); i++ {
			if a := p.members[(from+i)%len(p.members)]; !taken(dst[begin:], a) {
				dst = append(dst, Place{int(a), t.of(s, int(a)), why})
				got++
			}
		}
		limit -= got
	}
	return dst
}

// served is how many newcomers a gateway got lately for its weight.
func (t *Table) served(i int32) float32 {
	return (float32(t.gateways[i].Recent) + float32(t.fresh[i].Load())) * t.inverse[i]
}

func taken(places []Place, i int32) bool {
	for k := range places {
		if places[k].Gateway == int(i) {
			return true
		}
	}
	return false
}
