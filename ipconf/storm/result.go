package storm

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/antipode-im/antipode/ipconf/rank"
)

// Result is what came of a storm.
type Result struct {
	Config     Config
	Connected  int           // clients, in the end
	Settled95  time.Duration // after the region died: when 95 % were connected; 0: never
	Settled    time.Duration // when 99.9 % were
	Asked      int           // asks of ipconfs
	ToldToWait int           // of them
	Refused    int           // logins that a gateway could not take in time
	Peak       int           // arrivals at one gateway in one second, at most
	// Imbalance is the most that a gateway got of the arrivals, as a multiple of its fair share: that of its free conns among
	// those of its region, when the other region died. PerSecond is the most of any second with a hundred arrivals a gateway.
	Imbalance, PerSecond float64
	Fullest              float64 // conns by capacity, of the fullest gateway in the end
	Seconds              []Second

	asked, refused int
	known          []rank.Gateway
	arrivals       [][]int32 // by second and gateway
	joined         []int     // by second
	waits          []int     // by second
}

// Second is one second of the storm.
type Second struct {
	Low, Median, High, Max int     // arrivals at one gateway: 5th percentile, median, 95th, most
	Fair                   float64 // the mean
	Imbalance              float64 // most of any gateway, by its fair share
	Connected              float64 // part of all clients, at its end
	Waits                  int     // clients that were told to wait
}

func newResult(cfg Config, known []rank.Gateway) *Result {
	n := int(cfg.Length/time.Second) + 8
	r := &Result{Config: cfg, known: known, arrivals: make([][]int32, n), joined: make([]int, n), waits: make([]int, n)}
	for i := range r.arrivals {
		r.arrivals[i] = make([]int32, len(known))
	}
	return r
}

func (r *Result) arrived(t time.Duration, g int) { r.arrivals[t/time.Second][g]++ }
func (r *Result) connected(t time.Duration)      { r.joined[min(int(t/time.Second), len(r.joined)-1)]++ }
func (r *Result) told(t time.Duration)           { r.waits[t/time.Second]++ }
func (r *Result) free(g int) float64             { return float64(r.known[g].Capacity - r.known[g].Conns) }

// regionEnd is where the region of the gateway ends.
func (r *Result) regionEnd(g int) int {
	to := g
	for to < len(r.known) && r.known[to].Region == r.known[g].Region {
		to++
	}
	return to
}

// imbalance is the most that a gateway got by its fair share within its region, of regions with at least so many arrivals
// a gateway: of fewer, chance alone makes more.
func (r *Result) imbalance(arrivals []int32, least float64) float64 {
	most := 0.0
	for from := 0; from < len(arrivals); {
		to := r.regionEnd(from)
		var sum, free float64
		for g := from; g < to; g++ {
			sum += float64(arrivals[g])
			free += r.free(g)
		}
		for g := from; g < to && sum >= least*float64(to-from); g++ {
			most = max(most, float64(arrivals[g])/(sum*r.free(g)/free))
		}
		from = to
	}
	return most
}

func (r *Result) finish(s *storm) {
	r.Asked, r.Refused = s.result.asked, s.result.refused
	total := make([]int32, len(r.known))
	connected := 0
	for i := range r.arrivals {
		sorted := slices.Clone(r.arrivals[i])
		slices.Sort(sorted)
		n := len(sorted)
		sum := 0
		for g, a := range r.arrivals[i] {
			total[g] += a
			sum += int(a)
		}
		connected += r.joined[i]
		r.ToldToWait += r.waits[i]
		sec := Second{
			Low: int(sorted[n/20]), Median: int(sorted[n/2]), High: int(sorted[n-1-n/20]), Max: int(sorted[n-1]),
			Fair: float64(sum) / float64(n), Connected: float64(connected) / float64(r.Config.Clients), Waits: r.waits[i],
		}
		sec.Imbalance = r.imbalance(r.arrivals[i], 100)
		r.PerSecond = max(r.PerSecond, sec.Imbalance)
		r.Peak = max(r.Peak, sec.Max)
		r.Seconds = append(r.Seconds, sec)
		end := time.Duration(i+1) * time.Second
		if r.Settled95 == 0 && sec.Connected >= 0.95 {
			r.Settled95 = end
		}
		if r.Settled == 0 && sec.Connected >= 0.999 {
			r.Settled = end
		}
	}
	r.Connected = connected
	r.Imbalance = r.imbalance(total, 1)
	for g := range s.gateways {
		r.Fullest = max(r.Fullest, float64(s.gateways[g].conns)/float64(s.gateways[g].capacity))
	}
}

// Print writes the result as lines of name, value and unit.
func (r *Result) Print(w io.Writer) {
	row := func(name string, value any, unit string) {
		fmt.Fprintf(w, "storm/%s/%s %v %s\n", r.Config.Strategy, name, value, unit)
	}
	row("clients", r.Config.Clients, "clients")
	row("gateways", r.Config.Gateways, "gateways")
	row("connected", r.Connected, "clients")
	row("settled-95%", r.Settled95.Seconds(), "s")
	row("settled-99.9%", r.Settled.Seconds(), "s")
	row("imbalance", fmt.Sprintf("%.3f", r.Imbalance), "x-fair-share")
	row("imbalance-worst-second", fmt.Sprintf("%.3f", r.PerSecond), "x-fair-share")
	row("peak-arrivals", r.Peak, "arrivals/gateway/s")
	row("fullest", fmt.Sprintf("%.3f", r.Fullest), "of-capacity")
	row("asked", r.Asked, "asks")
	row("told-to-wait", r.ToldToWait, "asks")
	row("refused-logins", r.Refused, "logins")
}
