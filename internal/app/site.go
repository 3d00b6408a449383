package app

import (
	"context"
	"net"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/geo"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/telemetry"
	"github.com/antipode-im/antipode/ipconf"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/router"
)

// The names of the services, as in discovery, certificates and telemetry.
const (
	ServiceIPConf     = "ipconf"
	ServiceGateway    = "gateway"
	ServiceRouter     = "router"
	ServiceIMServer   = "imserver"
	ServiceReplicator = "replicator"
)

// Site is what the services of one region share, and how each of them is tuned.
type Site struct {
	File       string // of the configuration, for what to do about errors; may be empty
	Region     im.Region
	Origin     im.Origin   // under which the region accepts
	Regions    []im.Region // all, own included
	Origins    []im.Origin // whose logs are followed, own included
	Partitions int         // of every topic, equal in every region

	Kafka         kafka.Config
	JoinLag       time.Duration   // how far behind the views of a region may be that is to take clients
	LinkPace      time.Duration   // between the replicator's fetches, instead of Kafka.FetchPace; 0: the same
	ApplyPace     time.Duration   // likewise, of imservers
	Topic         kafka.TopicSpec // replication and retention of new topics
	Timelines     postgres.Config // all but how many partitions there are
	Redis         *goredis.UniversalOptions
	RedisPrefix   string // of the keys, where regions share a server
	Consul        consul.Config
	RouteSnapshot string               // the file in which a router keeps its routes between two lives; empty: none
	Peers         map[im.Region]string // where the other regions' replicators are reached

	PublicURL  string // by which clients reach a gateway or ipconf; empty: the bound address
	ClientCert string // PEM file of the certificate that a gateway shows to clients; empty: it speaks no TLS
	ClientKey  string // and of its key

	Tokens    auth.Config
	Geo       geo.Config // where addresses are, for ipconf
	ClockFile string     // puts an imserver's clock off, for game days

	// Tuning. Who and where the service is comes from the Site and the Binding.
	IPConf     ipconf.Config
	Gateway    gateway.Config
	Router     router.Config
	IMServer   imserver.Config
	Replicator replicator.Config
}

// databases is what the timelines' adapter is told.
func (s *Site) databases() postgres.Config {
	cfg := s.Timelines
	cfg.Partitions = s.Partitions
	return cfg
}

// Discovery is what services find each other through.
type Discovery interface {
	registry.Registry
	registry.States
	registry.Members
}

// Env is what a service process brings along: production and dev differ here, and nowhere else.
type Env struct {
	Discovery Discovery
	// DiscoveryAt is how discovery is told to people; nil: it is in the process.
	DiscoveryAt *backend
	// Identity returns the certificate of a service of the site's region.
	Identity func(service string) (*certs.Identity, error)
	// Telemetry sets up an instance's telemetry, with its admin server at an address ("": none).
	Telemetry func(service, instance, admin string) (*telemetry.Telemetry, error)
	// StartWait is how long a start waits for backends that do not answer; 0: one try.
	StartWait time.Duration
	// Network is how the services of this process reach each other and their brokers; nil: by TCP.
	Network Network
}

// Network binds addresses, and connects to them.
type Network interface {
	Listen(addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Binding says which instance a process is and where it listens.
type Binding struct {
	ID        string // unique within region and service
	Public    string // host:port of the HTTP server, of ipconfs and gateways
	RPC       string // host:port of the RPC server
	Advertise string // host:port by which others call it; empty: the one it is bound to
	Admin     string // host:port of the admin server; empty: none
}

// drainTimeout bounds each part of a service's drain.
const drainTimeout = 5 * time.Second
