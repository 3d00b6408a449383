package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

// KafkaConfig says where an embedded Kafka listens and keeps its data.
type KafkaConfig struct {
	Addr string // host:port on loopback; port 0 takes a free one
	Dir  string // created if missing; what an earlier one wrote there is loaded
	Sync bool   // fsync every append. Without it appends survive the end of the process, not that of the machine.
	// Network, if given, has those reach it in memory that dial through it.
	Network *Network
	Log     *slog.Logger
}

// Kafka is one broker of kfake in this process, persisted on disk.
//
// What differs from Apache Kafka: one goroutine serves all requests; message.timestamp.type is stored but record
// timestamps stay the producer's (nothing reads them); retention is not applied by itself; after Kill the windows that
// recognise repeated batches are lost, so a batch that was sent again across it may stand twice (as after an append that
// timed out but landed).
type Kafka struct {
	cluster *kfake.Cluster
	ln      *cutListener
	addr    string
	dir     string
	once    sync.Once
}

// killed is where Kill puts the data aside while the cluster writes what a crash would not have written.
const killed = ".killed"

// StartKafka starts the broker and returns when it can serve. A taken port is an error that names it.
func StartKafka(_ context.Context, cfg KafkaConfig) (*Kafka, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, fmt.Errorf("embedded kafka: data folder %q: %w", cfg.Dir, errors.Join(err, errors.New("want a folder")))
	}
	if err := restoreKilled(dir); err != nil {
		return nil, fmt.Errorf("embedded kafka: finish an earlier kill in %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("embedded kafka: data folder: %w", err)
	}
	network := cfg.Network
	if network == nil {
		network = new(Network)
	}
	ln, err := network.Listen(cfg.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("embedded kafka: %s is taken by another process: free it or choose another address: %w", cfg.Addr, err)
		}
		return nil, fmt.Errorf("embedded kafka: listen on %s: %w", cfg.Addr, err)
	}
	cut := &cutListener{Listener: ln, conns: make(map[net.Conn]struct{})}
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.ClusterID("antipode-embedded"), kfake.DataDir(dir),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return cut, nil }),
		kfake.WithLogger(kfakeLog{cfg.Log}),
	}
	if cfg.Sync {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("embedded kafka: data in %s: %w: repair or remove the folder", dir, err)
	}
	return &Kafka{cluster: cluster, ln: cut, addr: ln.Addr().String(), dir: dir}, nil
}

// Addr is the host:port that clients connect to.
func (k *Kafka) Addr() string { return k.addr }

// Close stops the broker and flushes everything to disk.
func (k *Kafka) Close() error {
	k.once.Do(func() {
		k.ln.cut()
		k.cluster.Close()
	})
	return nil
}

// Kill stops the broker as the sudden end of its process would: conns are cut first, and the data folder is left as
// appends had written it, without the snapshots and windows that a clean stop writes.
func (k *Kafka) Kill() error {
	var err error
	k.once.Do(func() {
		k.ln.cut() // from here on nothing is acknowledged
		err = os.Rename(k.dir, k.dir+killed)
		k.cluster.Close() // writes its farewell into a new k.dir, which restoreKilled throws away
		if err == nil {
			err = restoreKilled(k.dir)
		}
	})
	if err != nil {
		return fmt.Errorf("embedded kafka: kill: %w", err)
	}
	return nil
}

// restoreKilled puts back what Kill set aside. StartKafka calls it too, in case the process ended inside Kill.
func restoreKilled(dir string) error {
	if _, err := os.Stat(dir + killed); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(dir+killed, dir)
}

// cutListener closes, on cut, every conn it accepted.
type cutListener struct {
	net.Listener
	mu    sync.Mutex
	dead  bool
	conns map[net.Conn]struct{}
}

func (l *cutListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		conn.Close()
		return nil, net.ErrClosed
	}
	c := &cutConn{Conn: conn, l: l}
	l.conns[c] = struct{}{}
	return c, nil
}

func (l *cutListener) cut() {
	l.Listener.Close()
	l.mu.Lock()
	l.dead = true
	conns := l.conns
	l.conns = make(map[net.Conn]struct{})
	l.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

type cutConn struct {
	net.Conn
	l *cutListener
}

func (c *cutConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// kfakeLog passes on what kfake warns of; its debug lines are one per request.
type kfakeLog struct{ log *slog.Logger }

func (l kfakeLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error("kfake: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn("kfake: " + fmt.Sprintf(format, args...))
	}
}
