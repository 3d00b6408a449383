package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/antipode-im/antipode/im"
)

// Cluster is one region's Kafka. It is safe for concurrent use.
type Cluster struct {
	cfg  Config
	log  *slog.Logger
	sasl sasl.Mechanism
	dial func(ctx context.Context, addr string) (net.Conn, error)

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	gate   sync.RWMutex // held for reading while work is started, so that none is once Close waits for it
	closed bool         // under gate
	socks  sockets
	conns  conns
	lay    layoutKeeper
	app    appender

	buffers buffers
	crates  crates

	closing sync.Once
}

// Open learns the cluster's layout and returns when it answers, or with an error when none of the brokers does before
// ctx ends.
func Open(ctx context.Context, cfg Config, deps Deps) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	mechanism, err := cfg.SASL.mechanism()
	if err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Dial == nil {
		dialer := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 15 * time.Second}
		deps.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }
	}
	c := &Cluster{cfg: cfg, log: deps.Log, sasl: mechanism, dial: deps.Dial}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.socks.open = make(map[net.Conn]struct{})
	c.conns.c, c.conns.idle = c, make(map[string][]*conn)
	c.lay.init(c)
	c.app.init(c)
	err = c.retry(ctx, cfg.RequestTimeout, func(ctx context.Context) error {
		if err := c.lay.load(ctx); err != nil {
			if refused(err) {
				return &lastingError{err}
			}
			return err
		}
		return c.checkVersions(ctx)
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("kafka: no broker of %v answers: check that it runs, the address, TLS and SASL: %w", cfg.Brokers, err)
	}
	c.spawn(c.app.run)
	return c, nil
}

// checkVersions refuses brokers that do not speak what this package does.
func (c *Cluster) checkVersions(ctx context.Context) error {
	res, err := c.roundTrip(ctx, 0, &apiversions.Request{})
	if err != nil {
		return err
	}
	answer := res.(*apiversions.Response)
	if err := codeError(answer.ErrorCode, ""); err != nil {
		return err
	}
	for _, need := range []struct {
		key     protocol.ApiKey
		version int16
	}{{protocol.Produce, produceVersion}, {protocol.Fetch, fetchVersion}} {
		i := slices.IndexFunc(answer.ApiKeys, func(k apiversions.ApiKeyResponse) bool { return k.ApiKey == int16(need.key) })
		if i < 0 || answer.ApiKeys[i].MinVersion > need.version || answer.ApiKeys[i].MaxVersion < need.version {
			return fmt.Errorf("%w: the broker does not speak version %d of %v: %s", kafkago.UnsupportedVersion, need.version, need.key, remedy(kafkago.UnsupportedVersion))
		}
	}
	return nil
}

// spawn runs work that Close waits for; it returns false when the cluster is closed.
func (c *Cluster) spawn(work func()) bool {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.closed {
		return false
	}
	c.work.Go(work)
	return true
}

// Close ends every Reader, fails the appends that are waiting with CodeUnavailable, and closes all connections.
func (c *Cluster) Close() {
	c.closing.Do(func() {
		c.cancel()
		c.gate.Lock()
		c.closed = true
		c.gate.Unlock()
		c.lay.close()
		c.conns.close()
		c.socks.close()
		c.work.Wait()
		c.socks.wait(time.Second)
	})
}

// Ping tells whether a broker answers. The one that told the layout is asked on the conns that are open: probes come every
// few seconds, and a new transport for each would have the appends and fetches under way open theirs anew. The layout is
// learnt again only when it does not answer soon.
func (c *Cluster) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	soon, late := context.WithTimeout(ctx, askNext)
	_, err := c.roundTrip(soon, 0, &apiversions.Request{})
	late()
	if err == nil {
		return nil
	}
	if err := c.lay.load(ctx); err != nil {
		return fmt.Errorf("kafka: %v: %w", c.cfg.Brokers, err)
	}
	return nil
}

// roundTrip sends a request to where its kind goes: the leader it names, the controller, or any broker. The context's
// deadline, or RequestTimeout plus extra if that is earlier, ends it. Fetches and appends go by askLeader.
func (c *Cluster) roundTrip(ctx context.Context, extra time.Duration, req protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout+extra)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	res, err := c.lay.roundTrip(ctx, req)
	if err != nil && c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return res, err
}

// slowAnswer is how long a leader may be silent, beyond what it was told to wait, before it is asked for elsewhere
// whether it leads still: a broker that hangs keeps its conns, and others lead in its place long before RequestTimeout.
const slowAnswer = time.Second

// askLeader sends a request to the leader of partitions and returns its answer, for which the broker was told to wait so
// long. It ends with ctx, after the limit, or early when another broker leads one of the partitions.
func (c *Cluster) askLeader(ctx context.Context, wait, limit time.Duration, leader int32, ps iter.Seq[im.Partition], req protocol.Message) (protocol.Message, error) {
	addr, ok := c.lay.layout().brokers[leader]
	if !ok {
		return nil, kafkago.LeaderNotAvailable
	}
	ctx, cancel := context.WithCancelCause(ctx)
	began := time.Now()
	end := began.Add(limit)
	var mu sync.Mutex // so that the watch below is set before it is reset, and not reset after its end
	mu.Lock()
	var watch *time.Timer
	watch = time.AfterFunc(min(wait+slowAnswer, limit), func() {
		c.conns.drop(addr, began) // what keeps this one silent may keep those that wait beside it
		left := time.Until(end)
		if left <= 0 {
			cancel(context.DeadlineExceeded)
			return
		}
		lay := c.lay.layout()
		for p := range ps {
			if now, err := lay.leader(p); err == nil && now != leader {
				cancel(fmt.Errorf("no answer for %v, and %s leads %v now: %w", slowAnswer, lay.broker(now), p, kafkago.NotLeaderForPartition))
				return
			}
		}
		c.lay.refresh()
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil {
			watch.Reset(min(slowAnswer/4, left))
		}
	})
	mu.Unlock()
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		cancel(nil)
		watch.Stop()
	}()
	res, err := c.conns.ask(ctx, addr, req)
	if err != nil && c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return res, err
}

// retry calls try until it succeeds, fails for good, or ctx (or the limit) ends. Each failure that may pass makes the
// layout be learnt anew.
func (c *Cluster) retry(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for attempt := 0; ; attempt++ {
		err := try(ctx)
		if err == nil || final(err) {
			return err
		}
		if last != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = last // what was wrong before time ran out says more
		}
		last = err
		c.lay.refresh()
		select {
		case <-c.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return &unavailable{im.Errorf(im.CodeUnavailable, "kafka: gave up after %d attempts: %v", attempt+1, err), err}
		case <-time.After(backoff(attempt)):
		}
	}
}

// backoff is the wait before attempt+1: 20 ms doubling to 500 ms, of which a random half to the whole.
func backoff(attempt int) time.Duration {
	d := 500 * time.Millisecond
	if attempt < 5 {
		d = 20 * time.Millisecond << attempt
	}
	return d/2 + rand.N(d/2)
}

// codeError turns a broker's error code into an error; 0 is none.
func codeError(code int16, message string) error {
	switch {
	case code == 0:
		return nil
	case message == "":
		return kafkago.Error(code)
	}
	return fmt.Errorf("%w: %s", kafkago.Error(code), message)
}

// final tells whether a repeat would fail the same way: the broker refuses what was asked, rather than being unable to.
func final(err error) bool {
	var (
		code    kafkago.Error
		ranged  *RangeError
		setting *SettingError
		coded   *im.Error
		lasting *lastingError
	)
	switch {
	case errors.As(err, &ranged), errors.As(err, &setting), errors.As(err, &lasting), errors.Is(err, ErrClosed):
		return true
	case errors.As(err, &coded):
		return coded.Code != im.CodeUnavailable
	case errors.As(err, &code):
		switch code {
		case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge, kafkago.InvalidTopic, kafkago.TopicAuthorizationFailed,
			kafkago.ClusterAuthorizationFailed, kafkago.SASLAuthenticationFailed, kafkago.UnsupportedSASLMechanism,
			kafkago.IllegalSASLState, kafkago.PolicyViolation, kafkago.InvalidConfiguration, kafkago.InvalidPartitionNumber,
			kafkago.InvalidReplicationFactor, kafkago.InvalidRequest, kafkago.UnsupportedVersion, kafkago.InvalidRecord,
			kafkago.UnsupportedForMessageFormat, kafkago.InvalidRequiredAcks:
			return true
		}
	}
	return false
}

// refused tells whether two ends do not accept each other's certificates, or only one speaks TLS. When a cluster is opened that ends the
// attempts; later it may be a certificate that is being replaced.
func refused(err error) bool {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
	)
	return errors.As(err, &authority) || errors.As(err, &hostname) || errors.As(err, &invalid) || errors.As(err, &record) ||
		alerted(err) || wantsTLS(err)
}

// alerted tells whether the broker ended a handshake by saying why. The type of what it said is crypto/tls's own.
func alerted(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// wantsTLS tells whether kafka-go saw an alert of TLS where an answer was to come.
func wantsTLS(err error) bool { return strings.Contains(err.Error(), "expecting TLS") }

// lastingError is one that would come again.
type lastingError struct{ error }

// Unwrap returns what would.
func (e *lastingError) Unwrap() error { return e.error }

// remedy says what to do about an error, for people.
func remedy(err error) string {
	var code kafkago.Error
	if !errors.As(err, &code) {
		return "check that the broker runs and is reachable"
	}
	switch code {
	case kafkago.UnknownTopicOrPartition:
		return "run: antipode migrate"
	case kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed:
		return "give the user of log.sasl the rights that docs/operations.md lists for it"
	case kafkago.SASLAuthenticationFailed:
		return "correct log.sasl"
	case kafkago.NotEnoughReplicas, kafkago.NotEnoughReplicasAfterAppend:
		return "bring the missing replicas' brokers back"
	case kafkago.UnsupportedVersion:
		return "upgrade the brokers to Apache Kafka 2.7 or later"
	case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge:
		return "raise the topic's max.message.bytes to at least the configured batch size"
	}
	return "check the brokers' logs"
}

// sockets keeps the conns that the transport opened, so that Close can end the requests on them.
type sockets struct {
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{}
	empty  chan struct{} // closed when the last conn is gone after close
}

type socket struct {
	net.Conn
	owner *sockets
	once  sync.Once
}

func (s *sockets) add(conn net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, ErrClosed
	}
	k := &socket{Conn: conn, owner: s}
	s.open[k] = struct{}{}
	return k, nil
}

// Close ends the conn; the transport's goroutine for it calls this last of all.
func (k *socket) Close() error {
	k.once.Do(func() {
		k.owner.mu.Lock()
		defer k.owner.mu.Unlock()
		delete(k.owner.open, k)
		if k.owner.closed && len(k.owner.open) == 0 {
			close(k.owner.empty)
		}
	})
	return k.Conn.Close()
}

func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.empty = true, make(chan struct{})
	for k := range s.open {
		k.(*socket).Conn.Close() // wakes the goroutine that owns it, which then calls socket.Close
	}
	if len(s.open) == 0 {
		close(s.empty)
	}
}

func (s *sockets) wait(limit time.Duration) {
	select {
	case <-s.empty:
	case <-time.After(limit):
	}
}
