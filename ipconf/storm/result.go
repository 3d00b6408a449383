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
	Settled    time.Duration // when 99.5 % were: some are always between two sockets
	Asked      int           // asks of ipconfs
	Unanswered int           // of them, since the ipconf had too many
	ToldToWait int           // of them
	Refused    int           // logins that a gateway could not take in time
	Peak       int           // arrivals at one surviving gateway in one second, at most
	// Imbalance is the most that a surviving gateway got of the newcomers until the region returned, as a multiple of its fair
	// share: that of its free conns among those of its region, when the other region died. PerSecond is the most of any second
	// with 400 newcomers a gateway.
	Imbalance, PerSecond float64
	Fullest              float64 // conns by capacity, of the fullest gateway in the end
	Return               Return
	Seconds              []Second

	asked, refused, unanswered int
	known                      []rank.Gateway
	dead                       int
	arrivals, newcomers        [][]int32 // by second and gateway
	joined, left, waits        []int     // by second
	atHome                     []int     // clients in the region that died, by second
}

// Return is what came of the region's return.
type Return struct {
	Peak      int           // arrivals at one of its gateways in one second, at most
	Imbalance float64       // most that one of its gateways got, as a multiple of the mean
	First     float64       // part of all who came anywhere in the first ten seconds that came to it
	Half      time.Duration // after its return, when half of its clients were there; 0: never
	Back      float64       // part of its clients that was there in the end
}

// many is how many newcomers a gateway there must be in a second for its imbalance to say something: of fewer, chance alone
// gives some gateway of hundreds a fifth more.
const many = 400

// Second is one second of the storm.
type Second struct {
	Low, Median, High, Max int     // arrivals at one surviving gateway: 5th percentile, median, 95th, most
	Returned               int     // most arrivals at one gateway of the region that died
	Imbalance              float64 // most newcomers of any surviving gateway, by its fair share
	Connected              float64 // part of all clients, at its end
	Home                   float64 // part of them that is in the region that died
	Waits                  int     // clients that were told to wait
}

func newResult(cfg Config, known []rank.Gateway, dead int) *Result {
	n := int(cfg.Length/time.Second) + 8
	r := &Result{Config: cfg, known: known, dead: dead, joined: make([]int, n), atHome: make([]int, n), left: make([]int, n), waits: make([]int, n)}
	for range n {
		r.arrivals = append(r.arrivals, make([]int32, len(known)))
		r.newcomers = append(r.newcomers, make([]int32, len(known)))
	}
	return r
}

func (r *Result) arrived(t time.Duration, g int, newcomer bool) {
	r.arrivals[t/time.Second][g]++
	if newcomer {
		r.newcomers[t/time.Second][g]++
	}
}

func (r *Result) connected(t time.Duration) { r.joined[min(int(t/time.Second), len(r.joined)-1)]++ }
func (r *Result) lost(t time.Duration)      { r.left[t/time.Second]++ }
func (r *Result) told(t time.Duration)      { r.waits[t/time.Second]++ }
func (r *Result) free(g int) float64        { return float64(r.known[g].Capacity - r.known[g].Conns) }

// regionEnd is where the region of the gateway ends.
func (r *Result) regionEnd(g int) int {
	to := g
	for to < len(r.known) && r.known[to].Region == r.known[g].Region {
		to++
	}
	return to
}

// imbalance is the most that a surviving gateway got by its fair share within its region, of regions with at least so many
// newcomers a gateway.
func (r *Result) imbalance(newcomers []int32, least float64) float64 {
	most := 0.0
	for from := r.dead; from < len(newcomers); {
		to := r.regionEnd(from)
		var sum, free float64
		for g := from; g < to; g++ {
			sum += float64(newcomers[g])
			free += r.free(g)
		}
		for g := from; g < to && sum >= least*float64(to-from); g++ {
			most = max(most, float64(newcomers[g])/(sum*r.free(g)/free))
		}
		from = to
	}
	return most
}

func sum(of []int32) (n int) {
	for _, v := range of {
		n += int(v)
	}
	return n
}

func (r *Result) finish(s *storm) {
	r.Asked, r.Refused, r.Unanswered = r.asked, r.refused, r.unanswered
	storm, back := make([]int32, len(r.known)), make([]int32, r.dead)
	connected := 0
	var came, cameHome int
	for i := range min(len(r.arrivals), int(r.Config.Length/time.Second)) {
		before := r.Config.Return < 0 || time.Duration(i)*time.Second < r.Config.Return
		home := r.arrivals[i][:r.dead]
		sorted := slices.Clone(r.arrivals[i][r.dead:])
		slices.Sort(sorted)
		n := len(sorted)
		for g, a := range r.newcomers[i] {
			switch {
			case before:
				storm[g] += a
			case g < r.dead:
				back[g] += a
			}
		}
		connected += r.joined[i] - r.left[i]
		r.ToldToWait += r.waits[i]
		sec := Second{
			Low: int(sorted[n/20]), Median: int(sorted[n/2]), High: int(sorted[n-1-n/20]), Max: int(sorted[n-1]),
			Returned: int(slices.Max(home)), Waits: r.waits[i],
			Connected: float64(connected) / float64(r.Config.Clients), Home: float64(r.atHome[i]) / float64(r.Config.Clients),
		}
		if before {
			sec.Imbalance = r.imbalance(r.newcomers[i], many)
		} else {
			r.Return.Peak = max(r.Return.Peak, sec.Returned)
			if since := time.Duration(i)*time.Second - r.Config.Return; since < 10*time.Second {
				came, cameHome = came+sum(r.arrivals[i]), cameHome+sum(home)
			}
			if r.Return.Half == 0 && sec.Home >= 0.5 {
				r.Return.Half = time.Duration(i+1)*time.Second - r.Config.Return
			}
			r.Return.Back = sec.Home
		}
		r.PerSecond = max(r.PerSecond, sec.Imbalance)
		r.Peak = max(r.Peak, sec.Max)
		r.Seconds = append(r.Seconds, sec)
		end := time.Duration(i+1) * time.Second
		if r.Settled95 == 0 && sec.Connected >= 0.95 {
			r.Settled95 = end
		}
		if r.Settled == 0 && sec.Connected >= 0.995 {
			r.Settled = end
		}
	}
	r.Connected = connected
	r.Imbalance = r.imbalance(storm, 1)
	if n := sum(back); n > 0 {
		r.Return.Imbalance = float64(slices.Max(back)) * float64(r.dead) / float64(n)
		r.Return.First = float64(cameHome) / float64(max(came, 1))
	}
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
	row("settled-99.5%", r.Settled.Seconds(), "s")
	row("imbalance", fmt.Sprintf("%.3f", r.Imbalance), "x-fair-share")
	row("imbalance-worst-second", fmt.Sprintf("%.3f", r.PerSecond), "x-fair-share")
	row("peak-arrivals", r.Peak, "arrivals/gateway/s")
	row("fullest", fmt.Sprintf("%.3f", r.Fullest), "of-capacity")
	row("asked", r.Asked, "asks")
	row("unanswered", r.Unanswered, "asks")
	row("told-to-wait", r.ToldToWait, "asks")
	row("refused-logins", r.Refused, "logins")
	if r.Config.Return < 0 {
		return
	}
	row("return/peak-arrivals", r.Return.Peak, "arrivals/gateway/s")
	row("return/imbalance", fmt.Sprintf("%.3f", r.Return.Imbalance), "x-mean")
	row("return/first-10s", fmt.Sprintf("%.3f", r.Return.First), "of-arrivals")
	row("return/half-back", r.Return.Half.Seconds(), "s")
	row("return/back", fmt.Sprintf("%.3f", r.Return.Back), "of-clients")
}
