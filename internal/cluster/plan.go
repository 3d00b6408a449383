package cluster

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/antipode-im/antipode/im"
)

// The ports of a region, before its offset. A service's n-th instance has ten from its first on: listen, rpc, admin.
const (
	portPostgres         = 5432 // and on, one a server
	portRedis            = 6379
	portLinks            = 7900 // and on, in the order of the regions: where the link from that region is reached
	portConsulServer     = 8300
	portConsulLAN        = 8301
	portConsulWAN        = 8302
	portConsulHTTP       = 8500
	portKafka            = 9092 // and on, one a broker
	portKafkaController  = 9192 // likewise
	portPerInstance      = 10
	portListen, portRPC  = 0, 1
	portAdmin            = 2
	portServiceIPConf    = 7400
	portServiceGateway   = 7500
	portServiceRouter    = 7600
	portServiceIMServer  = 7700
	portServiceReplicate = 7800
)

// The names of the services, as in discovery, certificates and subcommands.
const (
	serviceIPConf     = "ipconf"
	serviceGateway    = "gateway"
	serviceRouter     = "router"
	serviceIMServer   = "imserver"
	serviceReplicator = "replicator"
)

// The kinds of backends.
const (
	backendKafka    = "kafka"
	backendPostgres = "postgres"
	backendRedis    = "redis"
	backendConsul   = "consul"
)

// Plan is every member of a cluster with its addresses and files: a function of the File alone.
type Plan struct {
	File    File
	Data    string // absolute
	Regions []RegionPlan
	Links   []LinkPlan

	added []Region // of the File's regions those that came while others ran: the data folder was not made for them
}

// RegionPlan is one region.
type RegionPlan struct {
	Name     im.Region
	Host     string
	Origin   im.Origin
	Dir      string // of its members
	Members  []MemberPlan
	Database []DatabasePlan
	Config   string // file of what all its services are told: for migrate
}

// MemberPlan is one process.
type MemberPlan struct {
	Name   string // region/part
	Region im.Region
	Part   string // the name within the region: kafka, imserver-1
	Kind   string // without the number: kafka, imserver
	Number int    // from 1
	Dir    string // of backends: what they keep
	Config string // of services: their configuration file
	// Host:port each; those that the kind does not have are empty.
	Listen string // Kafka, PostgreSQL, Redis and Consul's HTTP; the public server of ipconfs and gateways
	RPC    string // of services; Kafka's controller; Consul's server
	Admin  string // of services
	LAN    string // Consul's gossip within the datacenter
	WAN    string // and between datacenters
}

// Service tells whether the member is a service of Antipode, not a backend.
func (m MemberPlan) Service() bool { return m.Config != "" }

// Address is where the member is reached first of all.
func (m MemberPlan) Address() string { return cmp.Or(m.Listen, m.RPC) }

// DatabasePlan is one database of timelines.
type DatabasePlan struct {
	Name   string
	Server string // part that serves it: postgres
	Addr   string
}

// LinkPlan is a link: what brings the log of From to To. To's replicator dials Addr, which leads to one of Targets.
type LinkPlan struct {
	From, To im.Region
	Addr     string
	Targets  []string
}

// NewPlan plans a cluster whose file was checked.
func NewPlan(f File) (*Plan, error) {
	data, err := filepath.Abs(f.Data)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	p := &Plan{File: f, Data: data}
	for _, r := range f.Regions {
		p.Regions = append(p.Regions, planRegion(f, r, filepath.Join(data, string(r.Name))))
	}
	for i, from := range p.Regions {
		var targets []string
		for _, m := range from.Of(serviceReplicator) {
			targets = append(targets, m.RPC)
		}
		for j, to := range p.Regions {
			if i != j {
				p.Links = append(p.Links, LinkPlan{from.Name, to.Name, address(f.Regions[j], portLinks+i), targets})
			}
		}
	}
	return p, nil
}

func address(r Region, port int) string {
	return net.JoinHostPort(r.Host, strconv.Itoa(port+r.PortOffset))
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func planRegion(f File, r Region, dir string) RegionPlan {
	p := RegionPlan{
		Name: r.Name, Host: r.Host, Origin: im.NewOrigin(r.Name, cmp.Or(r.Epoch, 1)), Dir: dir, Config: filepath.Join(dir, "migrate.yaml"),
	}
	backend := func(kind string, n, of int, fill func(*MemberPlan)) {
		m := MemberPlan{Region: r.Name, Kind: kind, Number: n, Part: kind}
		if of > 1 {
			m.Part += "-" + strconv.Itoa(n)
		}
		m.Name, m.Dir = string(r.Name)+"/"+m.Part, filepath.Join(dir, m.Part)
		fill(&m)
		p.Members = append(p.Members, m)
	}
	brokers := cmp.Or(r.Brokers, f.Kafka.Brokers)
	for n := 1; n <= brokers; n++ {
		backend(backendKafka, n, brokers, func(m *MemberPlan) {
			m.Listen, m.RPC = address(r, portKafka+n-1), address(r, portKafkaController+n-1)
		})
	}
	for n := 1; n <= f.Postgres.Servers; n++ {
		backend(backendPostgres, n, f.Postgres.Servers, func(m *MemberPlan) { m.Listen = address(r, portPostgres+n-1) })
	}
	backend(backendRedis, 1, 1, func(m *MemberPlan) { m.Listen = address(r, portRedis) })
	backend(backendConsul, 1, 1, func(m *MemberPlan) {
		m.Listen, m.RPC = address(r, portConsulHTTP), address(r, portConsulServer)
		m.LAN, m.WAN = address(r, portConsulLAN), address(r, portConsulWAN)
	})
	servers := p.Of(backendPostgres)
	for n := range f.Postgres.Databases {
		s := servers[n%len(servers)]
		p.Database = append(p.Database, DatabasePlan{Name: fmt.Sprintf("antipode_%d", n), Server: s.Part, Addr: s.Listen})
	}
	for _, s := range []struct {
		service   string
		everyone  int
		here      int
		firstPort int
		public    bool
	}{
		{serviceReplicator, f.Services.Replicator, r.Services.Replicator, portServiceReplicate, false},
		{serviceRouter, f.Services.Router, r.Services.Router, portServiceRouter, false},
		{serviceIMServer, f.Services.IMServer, r.Services.IMServer, portServiceIMServer, false},
		{serviceGateway, f.Services.Gateway, r.Services.Gateway, portServiceGateway, true},
		{serviceIPConf, f.Services.IPConf, r.Services.IPConf, portServiceIPConf, true},
	} {
		for n := 1; n <= cmp.Or(s.here, s.everyone); n++ {
			first := s.firstPort + portPerInstance*(n-1)
			m := MemberPlan{
				Region: r.Name, Kind: s.service, Number: n, Part: fmt.Sprintf("%s-%d", s.service, n),
				RPC: address(r, first+portRPC), Admin: address(r, first+portAdmin),
			}
			m.Name, m.Config = string(r.Name)+"/"+m.Part, filepath.Join(dir, m.Part+".yaml")
			if s.public {
				m.Listen = address(r, first+portListen)
			}
			p.Members = append(p.Members, m)
		}
	}
	return p
}

// Of lists the region's members of a kind.
func (r *RegionPlan) Of(kind string) []MemberPlan {
	var of []MemberPlan
	for _, m := range r.Members {
		if m.Kind == kind {
			of = append(of, m)
		}
	}
	return of
}

// IPConf is the base URL of the region's first ipconf.
func (r *RegionPlan) IPConf() string { return "http://" + r.Of(serviceIPConf)[0].Listen }

// Region returns a region's plan.
func (p *Plan) Region(name im.Region) (*RegionPlan, bool) {
	i := slices.IndexFunc(p.Regions, func(r RegionPlan) bool { return r.Name == name })
	if i < 0 {
		return nil, false
	}
	return &p.Regions[i], true
}

// Names lists the regions.
func (p *Plan) Names() []im.Region {
	var names []im.Region
	for _, r := range p.Regions {
		names = append(names, r.Name)
	}
	return names
}

// Origins lists whose logs there are, those of former epochs among them.
func (p *Plan) Origins() []im.Origin {
	var origins []im.Origin
	for _, r := range p.Regions {
		for epoch := uint32(1); epoch <= r.Origin.Epoch(); epoch++ {
			origins = append(origins, im.NewOrigin(r.Name, epoch))
		}
	}
	return origins
}

// Members lists every member, region by region, each before those that need it.
func (p *Plan) Members() []MemberPlan {
	var all []MemberPlan
	for _, r := range p.Regions {
		all = append(all, r.Members...)
	}
	return all
}

// Match lists the names of the members that a target means: one (eu/kafka-1), all of a kind (eu/kafka), a region (eu) or
// everything (all).
func (p *Plan) Match(target string) []string {
	var names []string
	for _, m := range p.Members() {
		switch target {
		case "all", m.Name, string(m.Region), string(m.Region) + "/" + m.Kind:
			names = append(names, m.Name)
		}
	}
	return names
}

// Addresses lists every host:port that something will listen on, with whom.
func (p *Plan) Addresses() map[string]string {
	all := map[string]string{p.File.Listen: "pages and control"}
	if p.File.Traces != "" {
		all[p.File.Traces] = "traces"
	}
	for _, m := range p.Members() {
		for _, a := range []string{m.Listen, m.RPC, m.Admin, m.LAN, m.WAN} {
			if a != "" {
				all[a] = m.Name
			}
		}
	}
	for _, l := range p.Links {
		all[l.Addr] = "link " + l.Name()
	}
	return all
}

// Name is how a link is called.
func (l LinkPlan) Name() string { return string(l.From) + "-" + string(l.To) }

// URL is the base URL of pages, console and control.
func (p *Plan) URL() string { return "http://" + p.File.Listen }

// layout is what a data folder is made for: with other regions, partitions or servers what it holds has another meaning.
func (p *Plan) layout() string {
	var b strings.Builder
	for _, r := range p.Regions {
		if p.wasAdded(r.Name) {
			continue
		}
		fmt.Fprintf(&b, "region %s", r.Name)
		if n := len(r.Of(backendKafka)); n != p.File.Kafka.Brokers {
			fmt.Fprintf(&b, " with kafka brokers %d", n)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "kafka brokers %d partitions %d\npostgres servers %d databases %d\n",
		p.File.Kafka.Brokers, p.File.Kafka.Partitions, p.File.Postgres.Servers, p.File.Postgres.Databases)
	return b.String()
}
