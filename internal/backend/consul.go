package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	Secure     *ConsulSecurity // nil: everybody may do everything
}

// ConsulSecurity makes an agent serve HTTPS beside HTTP, and ask for tokens in both.
type ConsulSecurity struct {
	Cert, Key string // PEM files of the agent's certificate chain and key
	ClientCA  string // PEM file: clients of HTTPS must show a certificate that it signed
	Token     string // a UUID: who shows it may do everything; the agents use it among themselves
	Primary   string // the datacenter that keeps tokens and policies; the own one if empty
}

// ConsulPorts are the ports of an agent; those that are 0 are Consul's own. DNS and gRPC are switched off.
type ConsulPorts struct {
	HTTP   int // 8500
	HTTPS  int // 8501, if the agent is secure
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
	cfg.Node = cmp.Or(cfg.Node, cfg.Datacenter+"-"+strings.NewReplacer(".", "-", ":", "-").Replace(cfg.Host))
	cfg.Servers = cmp.Or(cfg.Servers, 1)
	cfg.Ports.HTTP = cmp.Or(cfg.Ports.HTTP, 8500)
	cfg.Ports.HTTPS = cmp.Or(cfg.Ports.HTTPS, 8501)
	cfg.Ports.Server = cmp.Or(cfg.Ports.Server, 8300)
	cfg.Ports.LAN = cmp.Or(cfg.Ports.LAN, 8301)
	cfg.Ports.WAN = cmp.Or(cfg.Ports.WAN, 8302)
	return &Consul{cfg: cfg}
}

// Name is what it was called.
func (c *Consul) Name() string { return c.cfg.Name }

// Addr is the host:port of its HTTP API.
func (c *Consul) Addr() string { return address(c.cfg.Host, c.cfg.Ports.HTTP) }

// SecureAddr is the host:port at which a secure agent serves it by HTTPS.
func (c *Consul) SecureAddr() string { return address(c.cfg.Host, c.cfg.Ports.HTTPS) }

// LANAddr is what other agents of the datacenter join.
func (c *Consul) LANAddr() string { return address(c.cfg.Host, c.cfg.Ports.LAN) }

// WANAddr is what servers of other datacenters join.
func (c *Consul) WANAddr() string { return address(c.cfg.Host, c.cfg.Ports.WAN) }

// Prepare writes its configuration.
func (c *Consul) Prepare(context.Context) (err error) {
	if c.cfg.Datacenter == "" {
		return fmt.Errorf("%s: it was given no datacenter", c.cfg.Name)
	}
	if c.cfg.Dir, err = folder(c.cfg.Name, c.cfg.Dir); err != nil {
		return err
	}
	if c.program, err = FindConsul(); err != nil {
		return err
	}
	ports := []int{c.cfg.Ports.HTTP, c.cfg.Ports.LAN}
	if c.cfg.Secure != nil {
		ports = append(ports, c.cfg.Ports.HTTPS)
	}
	if !c.cfg.Client {
		ports = append(ports, c.cfg.Ports.Server, c.cfg.Ports.WAN)
	}
	if err := checkFree(c.cfg.Name, c.cfg.Host, ports...); err != nil {
		return err
	}
	text, err := json.MarshalIndent(c.settings(), "", "  ")
	if err != nil {
		return fmt.Errorf("%s: configuration: %w", c.cfg.Name, err)
	}
	if err := os.WriteFile(c.config(), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("%s: configuration: %w", c.cfg.Name, err)
	}
	return nil
}

func (c *Consul) config() string { return filepath.Join(c.cfg.Dir, "consul.json") }

type settings map[string]any

// secure adds what an agent that is not open to everybody needs.
func (c *Consul) secure(s settings) {
	secure := c.cfg.Secure
	if secure == nil {
		return
	}
	s["ports"].(settings)["https"] = c.cfg.Ports.HTTPS
	s["tls"] = settings{"https": settings{
		"cert_file": secure.Cert, "key_file": secure.Key, "ca_file": secure.ClientCA, "verify_incoming": true,
	}}
	s["primary_datacenter"] = cmp.Or(secure.Primary, c.cfg.Datacenter)
	s["acl"] = settings{
		"enabled": true, "default_policy": "deny",
		"tokens": settings{"initial_management": secure.Token, "agent": secure.Token, "replication": secure.Token},
	}
}

func (c *Consul) settings() settings {
	// Machines beside each other: who is gone is known within 2 to 3 seconds, in its datacenter and in the others, whose
	// own settings reckon with an ocean between them (20 to 30 s).
	gossip := settings{"probe_interval": "500ms", "probe_timeout": "250ms", "suspicion_mult": 3, "gossip_interval": "100ms"}
	s := settings{
		"datacenter":     c.cfg.Datacenter,
		"node_name":      c.cfg.Node,
		"data_dir":       filepath.Join(c.cfg.Dir, "data"),
		"bind_addr":      c.cfg.Host,
		"advertise_addr": c.cfg.Host,
		"client_addr":    c.cfg.Host,
		"server":         !c.cfg.Client,
		"ports": settings{
			"http": c.cfg.Ports.HTTP, "server": c.cfg.Ports.Server, "serf_lan": c.cfg.Ports.LAN, "serf_wan": c.cfg.Ports.WAN,
			"dns": -1, "grpc": -1, "https": -1,
		},
		"retry_join":           c.others(c.cfg.LAN, c.LANAddr()),
		"retry_interval":       "1s",
		"gossip_lan":           gossip,
		"log_level":            "WARN",
		"disable_update_check": true,
		"performance":          settings{"raft_multiplier": 1},
		"limits": settings{
			// All services of a region come from one address here, and each of their watches is a connection.
			"http_max_conns_per_client": 4096,
			// What an agent tells its servers over a connection that hangs: by default it waits for a minute before it tries again, and its
			// members are off the list so long.
			"rpc_client_timeout": "5s",
		},
		// A server that stops comes back: it must not take itself off the list of those whose votes count.
		"leave_on_terminate":      false,
		"skip_leave_on_interrupt": true,
	}
	if !c.cfg.Client {
		s["bootstrap_expect"] = c.cfg.Servers
		s["retry_join_wan"] = c.others(c.cfg.WAN, c.WANAddr())
		s["retry_interval_wan"] = "1s"
		s["gossip_wan"] = gossip
	}
	c.secure(s)
	return s
}

// others leaves out the agent itself, so that all can be given the same list.
func (c *Consul) others(all []string, own string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(addr string) bool { return addr == own })
}

// Spec says how to start it.
func (c *Consul) Spec() process.Spec {
	return process.Spec{
		Name: c.cfg.Name, Path: c.program, Args: []string{"agent", "-config-file=" + c.config()}, Dir: c.cfg.Dir,
		Env: []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}, // nothing of CONSUL_*
	}
}

// Ready asks its datacenter's leader whether this agent is healthy: the answer needs a leader that serves, and an agent
// that has joined it.
func (c *Consul) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Addr()+"/v1/health/node/"+c.cfg.Node+"?consistent", nil)
	if err != nil {
		return fmt.Errorf("%s: %w", c.cfg.Name, err)
	}
	if c.cfg.Secure != nil {
		request.Header.Set("X-Consul-Token", c.cfg.Secure.Token)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w", c.cfg.Name, c.Addr(), err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w", c.cfg.Name, c.Addr(), err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s answers %s: %s", c.cfg.Name, c.Addr(), response.Status, strings.TrimSpace(string(text)))
	}
	var checks []struct{ CheckID, Status string }
	if err := json.Unmarshal(text, &checks); err != nil {
		return fmt.Errorf("%s: %s: %w", c.cfg.Name, c.Addr(), err)
	}
	for _, check := range checks {
		if check.CheckID == "serfHealth" && check.Status == "passing" {
			return nil
		}
	}
	return fmt.Errorf("%s: %s is not part of its datacenter yet", c.cfg.Name, c.Addr())
}
