package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/imserver"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// Launch says which service a process is.
type Launch struct {
	Service string
	Config  *config.Config
	File    string    // that the configuration was read from; may be empty
	Version string    // of the build
	Log     io.Writer // stderr if nil
}

// builders makes each service.
func (l *Launch) build(ctx context.Context, site Site, env Env, b Binding) (svc Service, err error) {
	switch l.Service {
	case ServiceIPConf:
		svc, _, err = IPConf(ctx, site, env, b)
	case ServiceGateway:
		svc, _, err = Gateway(ctx, site, env, b)
	case ServiceRouter:
		svc, _, err = Router(ctx, site, env, b)
	case ServiceIMServer:
		svc, _, err = IMServer(ctx, site, env, b)
	case ServiceReplicator:
		svc, _, err = Replicator(ctx, site, env, b)
	default:
		err = &ConfigError{fmt.Errorf("%q is no service", l.Service)}
	}
	return svc, err
}

// Serve runs one service as this process until ctx ends, then drains it within the configured time. What is wrong with the
// configuration is a *ConfigError, with a backend a *BackendError.
func Serve(ctx context.Context, l Launch) error {
	c := l.Config
	if err := config.CheckFor(c, l.Service); err != nil {
		return &ConfigError{err}
	}
	site, err := SiteOf(c)
	if err != nil {
		return &ConfigError{err}
	}
	site.Gateway.Version = l.Version
	site.File = l.File
	binding, err := bindingOf(c)
	if err != nil {
		return err
	}
	identity, err := identityOf(c, l.Service)
	if err != nil {
		return &ConfigError{err}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Telemetry.LogLevel)); err != nil {
		return &ConfigError{err}
	}
	tel, err := telemetry.New(telemetry.Config{
		Service: l.Service, Region: string(c.Region), Instance: binding.ID, LogWriter: l.Log, LogLevel: level,
		Admin: binding.Admin, Listen: site.listenShared(l.Service), SampleRatio: c.Telemetry.SampleRatio, OTLP: c.Telemetry.OTLP,
	})
	if err != nil {
		return taken(err)
	}
	defer func() { _ = tel.Close(context.Background()) }() // again, if a service was built: that one tells its errors
	tel.Log.Info("starting", "version", l.Version, "pid", os.Getpid(), "origin", site.Origin, "public", binding.Public,
		"rpc", binding.RPC, "admin", tel.AdminAddr())

	// What follows is the whole process's, which this service is.
	goredis.SetLogger(redisLog{tel.Log})
	if n := processors(c, l.Service, os.Getenv("GOMAXPROCS")); n > 0 {
		runtime.GOMAXPROCS(n)
	}

	discovery, err := discover(ctx, &site, c, tel)
	if err != nil {
		return stopped(ctx, err)
	}
	defer discovery.Close()
	at := consulAt(c)
	env := Env{
		Discovery: discovery, DiscoveryAt: &at,
		Identity:  func(string) (*certs.Identity, error) { return identity, nil },
		Telemetry: func(string, string, string) (*telemetry.Telemetry, error) { return tel, nil },
		StartWait: c.StartWait,
	}
	svc, err := l.build(ctx, site, env, binding)
	if err != nil {
		return stopped(ctx, err)
	}
	err = drained(ctx, svc, c.Drain, tel.Log)
	if errors.Is(err, gateway.ErrTakenOver) {
		tel.Log.Info("another process has taken over: this one ends")
		return nil
	}
	if wrong, ok := errors.AsType[*imserver.LogError](err); ok {
		at := kafkaAt(&site)
		return &BackendError{Backend: at.name, Address: at.address, Problem: wrong.Problem, Remedy: site.remedy(wrong.Remedy), Err: err}
	}
	return taken(err)
}

// redisLog writes what the Redis client has to tell into the process's log: it would go to stderr as it is otherwise.
type redisLog struct{ log *slog.Logger }

// Printf implements the client's logger.
func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.WarnContext(ctx, "redis client", "told", fmt.Sprintf(format, args...))
}

// stopped makes nothing of the error of a start that was called off.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return taken(err)
}

// taken adds to the error of an address that another process has what can be done.
func taken(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: stop what uses it, or set another (listen, rpc, admin)", err)
	}
	return err
}

// drained runs a service until ctx ends, and gives it a time to end in.
func drained(ctx context.Context, svc Service, drain time.Duration, log *slog.Logger) error {
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	began := time.Now()
	log.Info("draining", "deadline", drain.String())
	select {
	case err := <-ended:
		if err != nil {
			return err
		}
		log.Info("drained", "took", time.Since(began).Round(time.Millisecond).String())
		return nil
	case <-time.After(drain):
		return fmt.Errorf("the drain did not end within %v (key drain): what was left is cut off", drain)
	}
}

// bindingOf says which instance the process is and where it listens.
func bindingOf(c *config.Config) (Binding, error) {
	b := Binding{ID: c.Instance, Public: c.Listen, RPC: c.RPC, Admin: c.Admin, Advertise: c.Advertise}
	if b.ID != "" && b.Advertise != "" {
		return b, nil
	}
	machine, err := os.Hostname()
	if err != nil {
		return Binding{}, fmt.Errorf("the machine's name is not known: set instance and advertise: %w", err)
	}
	b.ID = cmp.Or(b.ID, machine)
	if host, port, err := net.SplitHostPort(c.RPC); err == nil && b.Advertise == "" {
		if ip := net.ParseIP(host); (host == "" || ip != nil && ip.IsUnspecified()) && port != "0" {
			b.Advertise = net.JoinHostPort(machine, port)
		}
	}
	return b, nil
}

// identityOf reads the service's certificate.
func identityOf(c *config.Config, service string) (*certs.Identity, error) {
	identity, err := certs.Load(c.TLS.Cert, c.TLS.Key, c.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	is, of, err := certs.Identify(identity.Certificate.Leaf)
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	if is != service || of != c.Region {
		return nil, fmt.Errorf("tls.cert: %s is of %s, want one of %s", c.TLS.Cert, certs.Name(is, of), certs.Name(service, c.Region))
	}
	if left := time.Until(identity.Certificate.Leaf.NotAfter); left <= 0 {
		return nil, fmt.Errorf("tls.cert: %s expired on %s", c.TLS.Cert, identity.Certificate.Leaf.NotAfter.Format(time.DateOnly))
	}
	return identity, nil
}

// discover opens the region's Consul.
func discover(ctx context.Context, site *Site, c *config.Config, tel *telemetry.Telemetry) (*consul.Consul, error) {
	discovery, err := consul.New(site.Consul, consul.Deps{Log: tel.Log, Meter: tel.Meter})
	if err != nil {
		return nil, err
	}
	at := consulAt(c)
	if err := at.reach(ctx, site, time.Now().Add(c.StartWait), tel.Log, discovery.Check); err != nil {
		discovery.Close()
		return nil, err
	}
	tel.Degraded(at.name, at.check(discovery.Ping))
	tel.Ready("registration", at.check(discovery.Standing))
	return discovery, nil
}

// MigrateConfigured makes the backends that a configuration names ready for this build, waiting for them for a while. It
// tells progress one line at a time.
func MigrateConfigured(ctx context.Context, l Launch, patience time.Duration, progress func(string)) error {
	site, err := SiteOf(l.Config)
	if err != nil {
		return &ConfigError{err}
	}
	site.File = l.File
	if len(site.Kafka.Brokers) == 0 && len(site.Timelines.URLs) == 0 {
		return &ConfigError{errors.New("config: nothing to migrate: set log.brokers, timelines.urls or both")}
	}
	log := newPlainLog(cmp.Or[io.Writer](l.Log, os.Stderr))
	until := time.Now().Add(patience)
	return migrateAll(ctx, &site, until, log, progress)
}

// processors is how many processors a service's process is to use, where said is what GOMAXPROCS says; 0: as many as Go's runtime makes it.
func processors(c *config.Config, service, said string) int {
	if service != ServiceReplicator || said != "" {
		return 0
	}
	return min(c.Replicator.Processors, runtime.NumCPU())
}
