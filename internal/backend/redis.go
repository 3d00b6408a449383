package backend

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/internal/process"
)

// RedisConfig says where a Redis server lives.
type RedisConfig struct {
	Name     string // "redis" if empty
	Dir      string // for its configuration and log of crashes; made if it does not exist
	Host     string // to listen on
	Port     int    // 6379 if 0
	Password string // of the default user; empty: none is asked for
	Memory   int    // bytes it may use; writes beyond are refused, nothing is evicted; 256 MB if 0
}

// Redis is a Redis server that keeps nothing: no append-only file, no snapshots. What a region keeps in Redis is derived
// from its logs, rows and position together, and a server that comes back empty is filled from them again. One that came
// back with an older state, as both kinds of persistence can after a crash, would be brought forward in the same way, so
// persistence would cost forks and disk time and save nothing but that replay of some seconds.
type Redis struct {
	cfg     RedisConfig
	program string
}

// NewRedis describes a server; Prepare looks at the machine.
func NewRedis(cfg RedisConfig) *Redis {
	cfg.Name = cmp.Or(cfg.Name, "redis")
	cfg.Port = cmp.Or(cfg.Port, 6379)
	cfg.Memory = cmp.Or(cfg.Memory, 256<<20)
	return &Redis{cfg: cfg}
}

// Name is what it was called.
func (r *Redis) Name() string { return r.cfg.Name }

// Addr is the host:port that it listens on.
func (r *Redis) Addr() string { return address(r.cfg.Host, r.cfg.Port) }

func (r *Redis) config() string { return filepath.Join(r.cfg.Dir, "redis.conf") }

// Prepare writes its configuration.
func (r *Redis) Prepare(context.Context) (err error) {
	if r.cfg.Dir, err = folder(r.cfg.Name, r.cfg.Dir); err != nil {
		return err
	}
	if r.program, err = FindRedis(); err != nil {
		return err
	}
	if err := checkFree(r.cfg.Name, r.cfg.Host, r.cfg.Port); err != nil {
		return err
	}
	settings := [][2]string{
		{"bind", r.cfg.Host},
		{"port", strconv.Itoa(r.cfg.Port)},
		{"dir", r.cfg.Dir},
		{"daemonize", "no"},
		{"save", ""},
		{"appendonly", "no"},
		{"maxmemory", strconv.Itoa(r.cfg.Memory)},
		{"maxmemory-policy", "noeviction"}, // a route that was evicted would be taken for one that never was
		{"timeout", "0"},
		{"tcp-keepalive", "30"},
	}
	if r.cfg.Password != "" {
		settings = append(settings, [2]string{"requirepass", r.cfg.Password})
	}
	var text strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&text, "%s %q\n", s[0], s[1])
	}
	if err := os.WriteFile(r.config(), []byte(text.String()), 0o600); err != nil { // it may hold the password
		return fmt.Errorf("%s: configuration: %w", r.cfg.Name, err)
	}
	return nil
}

// Spec says how to start it.
func (r *Redis) Spec() process.Spec {
	return process.Spec{Name: r.cfg.Name, Path: r.program, Args: []string{r.config()}, Dir: r.cfg.Dir, Env: []string{"LC_ALL=C", "TZ=UTC"}}
}

// Ready pings it.
func (r *Redis) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	answer, err := r.ping(ctx)
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w", r.cfg.Name, r.Addr(), err)
	}
	if answer != "+PONG" {
		return fmt.Errorf("%s: %s answers %s", r.cfg.Name, r.Addr(), answer)
	}
	return nil
}

func (r *Redis) ping(ctx context.Context) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.Addr())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline.Add(-time.Millisecond))
	commands := "PING\r\n"
	if r.cfg.Password != "" {
		commands = fmt.Sprintf("*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n%s", len(r.cfg.Password), r.cfg.Password, commands)
	}
	if _, err := conn.Write([]byte(commands)); err != nil {
		return "", err
	}
	answers := bufio.NewReader(conn)
	for {
		line, err := answers.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line = strings.TrimSpace(line); line != "+OK" { // to AUTH
			return line, nil
		}
	}
}
