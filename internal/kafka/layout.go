package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"github.com/antipode-im/antipode/im"
)

// layout is what was last learnt of the cluster: who leads what.
type layout struct {
	brokers map[int32]string // id → host:port
	leaders map[im.Partition]int32
	epochs  map[im.Partition]int32 // of the leaders; -1 is unknown
	topics  map[string]topicLayout
	learnt  time.Time
	older   map[im.Partition]time.Time // when those were learnt that were kept of a former layout
}

type topicLayout struct {
	partitions  int
	replication int // the least of its partitions
}

// leader returns the broker that leads a partition.
func (l *layout) leader(p im.Partition) (int32, error) {
	id, ok := l.leaders[p]
	switch {
	case ok && id >= 0:
		return id, nil
	case ok:
		return -1, kafkago.LeaderNotAvailable
	}
	return -1, kafkago.UnknownTopicOrPartition
}

// broker names a broker for errors.
func (l *layout) broker(id int32) string {
	return fmt.Sprintf("broker %d at %s", id, l.brokers[id])
}

// since tells when the leader of a partition was last told by a broker.
func (l *layout) since(p im.Partition) time.Time {
	if t, ok := l.older[p]; ok {
		return t
	}
	return l.learnt
}

func (l *layout) kept(p im.Partition, since time.Time) {
	if l.older == nil {
		l.older = make(map[im.Partition]time.Time)
	}
	l.older[p] = since
}

// byLeader groups partitions by who leads them; those without a leader are returned apart.
func (l *layout) byLeader(ps []im.Partition) (map[int32][]im.Partition, map[im.Partition]error) {
	groups, lost := make(map[int32][]im.Partition), map[im.Partition]error(nil)
	for _, p := range ps {
		id, err := l.leader(p)
		if err != nil {
			if lost == nil {
				lost = make(map[im.Partition]error)
			}
			lost[p] = err
			continue
		}
		groups[id] = append(groups[id], p)
	}
	return groups, lost
}

// layoutKeeper keeps the layout and the transport that learnt it. The transport has no way to be told that its view of
// the cluster is stale, so a refresh makes a new one beside it, and replaces it once the new one has learnt the layout:
// requests to the leaders that are well go on meanwhile.
type layoutKeeper struct {
	c  *Cluster
	mu sync.Mutex
	// Under mu.
	now     *layout
	route   *route
	closed  bool
	loading bool      // a refresh is under way
	last    time.Time // when the last refresh began
}

// route is a transport with the number of those who use it. It is closed when it was replaced and no one does: closed
// earlier, the transport would open itself again for the next request and then stay for ever.
type route struct {
	*kafkago.Transport
	addr     net.Addr // of the broker that told the layout; it serves whatever any broker can serve, too
	users    int
	replaced bool
}

const (
	// refreshPause is the least time between two refreshes.
	refreshPause = 100 * time.Millisecond
	// askNext is how long one broker may take to tell the layout before another is asked as well: one that hangs takes
	// conns, and never answers.
	askNext = 300 * time.Millisecond
)

func (k *layoutKeeper) init(c *Cluster) {
	k.c = c
	k.route = k.newRoute(c.cfg.Brokers[0])
	k.now = &layout{}
}

func (k *layoutKeeper) newRoute(addr string) *route {
	c := k.c
	return &route{addr: kafkago.TCP(addr), Transport: &kafkago.Transport{
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			conn, err := c.dial(ctx, address)
			if err != nil {
				return nil, err
			}
			return c.socks.add(conn)
		},
		DialTimeout: c.cfg.DialTimeout,
		IdleTimeout: time.Minute,
		MetadataTTL: 10 * time.Second,
		ClientID:    c.cfg.ClientID,
		TLS:         c.cfg.TLS,
		SASL:        c.sasl,
		Context:     c.ctx,
	}}
}

func (k *layoutKeeper) layout() *layout {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// roundTrip sends a request over the current transport.
func (k *layoutKeeper) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	k.mu.Lock()
	r := k.route
	r.users++
	k.mu.Unlock()
	res, err := r.RoundTrip(ctx, r.addr, req)
	k.mu.Lock()
	r.users--
	unused := r.replaced && r.users == 0
	k.mu.Unlock()
	if unused {
		r.CloseIdleConnections()
	}
	return res, err
}

// load learns the layout over a new transport, and waits for it. The brokers are asked in random order, the next one
// when the one before failed or has not answered soon; the first answer is taken.
func (k *layoutKeeper) load(ctx context.Context) error {
	type answer struct {
		route *route
		now   *layout
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addresses := k.addresses()
	answers := make(chan answer, len(addresses))
	next := time.NewTimer(0)
	defer next.Stop()
	var failure error
	failed := 0
	for asked := 0; ; {
		select {
		case <-next.C:
			if asked == len(addresses) {
				continue
			}
			r := k.newRoute(addresses[asked])
			asked++
			next.Reset(askNext)
			go func() { // ends with ctx
				res, err := r.RoundTrip(ctx, r.addr, &metadata.Request{})
				if err != nil {
					r.CloseIdleConnections()
					answers <- answer{err: fmt.Errorf("%s: %w", r.addr, err)}
					return
				}
				answers <- answer{r, newLayout(res.(*metadata.Response)), nil}
			}()
		case a := <-answers:
			if a.err != nil {
				if failed++; failure == nil {
					failure = a.err
				} else {
					failure = fmt.Errorf("%w; %w", failure, a.err)
				}
				if failed == len(addresses) {
					return failure
				}
				next.Reset(0)
				continue
			}
			k.take(a.route, a.now)
			go func() { // those that were asked as well end with ctx; what they learnt is not needed
				for range asked - failed - 1 {
					if late := <-answers; late.route != nil {
						late.route.CloseIdleConnections()
					}
				}
			}()
			return nil
		}
	}
}

// addresses are those of all brokers that are configured or known, in random order.
func (k *layoutKeeper) addresses() []string {
	all := slices.Clone(k.c.cfg.Brokers)
	for _, addr := range k.layout().brokers {
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// staleAfter is for how long a leader is preferred to one of a lower epoch that is told later: a broker that hung and
// goes on tells what it knew, itself as the leader of logs that others have written since. A topic that was made anew has
// lower epochs for good.
const staleAfter = 30 * time.Second

// keep takes over from the former layout the leaders of higher epochs.
func (l *layout) keep(former *layout) {
	for p, epoch := range l.epochs {
		if known, ok := former.epochs[p]; ok && known > epoch && l.learnt.Sub(former.since(p)) < staleAfter {
			if _, alive := l.brokers[former.leaders[p]]; alive {
				l.leaders[p] = former.leaders[p]
			} else {
				l.leaders[p] = -1
			}
			l.epochs[p] = known
			l.kept(p, former.since(p))
		}
	}
}

// take has a route replace the former.
func (k *layoutKeeper) take(r *route, now *layout) {
	k.mu.Lock()
	out := r
	if !k.closed {
		now.keep(k.now)
		out, k.now, k.route = k.route, now, r
		k.c.conns.keep(now)
	}
	out.replaced = true
	unused := out.users == 0
	k.mu.Unlock()
	if unused {
		out.CloseIdleConnections()
	}
}

// refresh makes the layout be learnt anew soon, in the background.
func (k *layoutKeeper) refresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.loading {
		return
	}
	k.loading = true
	wait := max(0, refreshPause-time.Since(k.last))
	k.c.spawn(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-k.c.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(k.c.ctx, k.c.cfg.RequestTimeout)
		defer cancel()
		if err := k.load(ctx); err != nil {
			k.c.log.Debug("kafka: learn the layout", "brokers", k.c.cfg.Brokers, "error", err)
		}
		k.mu.Lock()
		k.loading, k.last = false, time.Now()
		k.mu.Unlock()
	})
}

func (k *layoutKeeper) close() {
	k.mu.Lock()
	k.closed = true
	k.route.replaced = true
	unused := k.route.users == 0
	k.mu.Unlock()
	if unused {
		k.route.CloseIdleConnections()
	}
}

func newLayout(res *metadata.Response) *layout {
	l := &layout{
		brokers: make(map[int32]string, len(res.Brokers)),
		leaders: make(map[im.Partition]int32),
		epochs:  make(map[im.Partition]int32),
		topics:  make(map[string]topicLayout, len(res.Topics)),
		learnt:  time.Now(),
	}
	for _, b := range res.Brokers {
		l.brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	for _, t := range res.Topics {
		if t.ErrorCode != 0 || t.IsInternal {
			continue
		}
		tl := topicLayout{partitions: len(t.Partitions)}
		for i, p := range t.Partitions {
			if n := len(p.ReplicaNodes); i == 0 || n < tl.replication {
				tl.replication = n
			}
			leader := p.LeaderID
			if _, known := l.brokers[leader]; !known {
				leader = -1
			}
			at := im.Partition{Topic: t.Name, Number: int(p.PartitionIndex)}
			l.leaders[at], l.epochs[at] = leader, p.LeaderEpoch
		}
		l.topics[t.Name] = tl
	}
	return l
}
