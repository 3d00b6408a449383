package cluster

import (
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/config"
)

// File is a cluster.yaml: which regions run on this machine, and how.
type File struct {
	Data      string        `yaml:"data"`       // folder of everything that lasts, made if it is missing
	Listen    string        `yaml:"listen"`     // host:port of pages, console and control: loopback only
	Traces    string        `yaml:"traces"`     // host:port where services send their traces (OTLP); empty: traces are dropped
	LinkDelay time.Duration `yaml:"link_delay"` // one way, between any two regions
	StartIn   time.Duration `yaml:"start_in"`   // how long everything together may take to become ready
	StopIn    time.Duration `yaml:"stop_in"`    // how long one member may take to stop before it is killed

	Kafka    Kafka             `yaml:"kafka"`
	Postgres Postgres          `yaml:"postgres"`
	Services Services          `yaml:"services"` // of each region, unless the region says otherwise
	Set      map[string]string `yaml:"set"`      // keys of the services' configuration, such as imserver.rate, over what is generated
	Regions  []Region          `yaml:"regions"`
}

// Kafka is how each region's Kafka runs.
type Kafka struct {
	Brokers    int  `yaml:"brokers"`    // 1, or 3 for a quorum
	Heap       int  `yaml:"heap"`       // of each broker, MB
	Partitions int  `yaml:"partitions"` // of every topic; cannot change while there is data
	Quick      bool `yaml:"quick"`      // compile quickly rather than well: brokers take a third less CPU in their first minute; otherwise they serve more under a lasting load
}

// Postgres is how each region's timelines are kept: partition p lives in database p mod Databases.
type Postgres struct {
	Servers   int `yaml:"servers"`
	Databases int `yaml:"databases"` // in all; spread over the servers
}

// Services are how many instances run of each; 0 in a region means as many as everywhere.
type Services struct {
	IPConf     int `yaml:"ipconf"`
	Gateway    int `yaml:"gateway"`
	Router     int `yaml:"router"`
	IMServer   int `yaml:"imserver"`
	Replicator int `yaml:"replicator"`
}

// Region is one region.
type Region struct {
	Name       im.Region `yaml:"name"`
	Host       string    `yaml:"host"`        // loopback address of everything in it
	PortOffset int       `yaml:"port_offset"` // added to every port, for regions that share an address
	Epoch      uint32    `yaml:"epoch"`       // of its origin: 2 after it was lost and returned once; 0 means 1
	Brokers    int       `yaml:"brokers"`     // of its Kafka; 0: as many as everywhere
	Services   Services  `yaml:"services"`
}

// DefaultFile returns what holds for every key that is not set. Regions stand for all or nothing: a file that lists some
// has those.
func DefaultFile() File {
	return File{
		Data: ".antipode/cluster", Listen: "127.0.0.1:7400", Traces: "127.0.0.1:7417",
		LinkDelay: 40 * time.Millisecond, StartIn: 4 * time.Minute, StopIn: 20 * time.Second,
		Kafka:    Kafka{Brokers: 1, Heap: 256, Partitions: 4, Quick: true},
		Postgres: Postgres{Servers: 1, Databases: 1},
		Services: Services{IPConf: 1, Gateway: 2, Router: 1, IMServer: 1, Replicator: 1},
		Set:      map[string]string{},
		Regions: []Region{
			{Name: "eu", Host: "127.0.0.11"}, {Name: "us", Host: "127.0.0.12"}, {Name: "ap", Host: "127.0.0.13"},
		},
	}
}

// ReadFile reads a cluster.yaml (none if path is empty), then set (path of a key to its value) over it. A key that is not of
// the file but of the services' configuration stands under the file's set.
func ReadFile(path string, set map[string]string) (File, error) {
	f := DefaultFile()
	own, services := map[string]string{}, map[string]string{}
	for key, value := range set {
		if !config.HasKey[File](key) && config.IsNear[config.Config](key) {
			services[key] = value
		} else {
			own[key] = value
		}
	}
	if err := config.Set(config.Defaults(), services); err != nil { // the file is not to blame
		return f, err
	}
	err := config.ReadFile(path, own, &f, func() []config.Problem {
		maps.Copy(f.Set, services)
		return f.check()
	})
	return f, err
}

// The bounds that the ports of plan.go leave room for.
const (
	maxRegions   = 8
	maxInstances = 9
	maxDelay     = 10 * time.Second
	maxEpoch     = 99 // each has logs of its own in every region
)

// check tells what of a file cannot be.
func (f *File) check() []config.Problem {
	var problems []config.Problem
	bad := func(key, format string, args ...any) {
		problems = append(problems, config.Problem{Key: key, Text: fmt.Sprintf(format, args...)})
	}
	between := func(key string, n, low, high int) {
		if n < low || n > high {
			bad(key, "%d is not between %d and %d", n, low, high)
		}
	}
	if f.Data == "" {
		bad("data", "must name a folder")
	}
	if why := badListen(f.Listen); why != "" {
		bad("listen", "%s", why)
	}
	if why := badListen(f.Traces); f.Traces != "" && why != "" {
		bad("traces", "%s", why)
	}
	if f.LinkDelay < 0 || f.LinkDelay > maxDelay {
		bad("link_delay", "%v is not between 0s and %v", f.LinkDelay, maxDelay)
	}
	for key, d := range map[string]time.Duration{"start_in": f.StartIn, "stop_in": f.StopIn} {
		if d < time.Second || d > time.Hour {
			bad(key, "%v is not between 1s and 1h", d)
		}
	}
	if f.Kafka.Brokers != 1 && f.Kafka.Brokers != 3 {
		bad("kafka.brokers", "%d: want 1, or 3 for a quorum", f.Kafka.Brokers)
	}
	between("kafka.heap", f.Kafka.Heap, 64, 64<<10)
	between("kafka.partitions", f.Kafka.Partitions, 1, 1024)
	between("postgres.servers", f.Postgres.Servers, 1, maxInstances)
	between("postgres.databases", f.Postgres.Databases, 1, 64)
	if f.Postgres.Databases < f.Postgres.Servers {
		bad("postgres.databases", "%d is fewer than postgres.servers, %d: a server would be idle", f.Postgres.Databases, f.Postgres.Servers)
	}
	eachCount(f.Services, "services", func(key string, n int) { between(key, n, 1, maxInstances) })
	if err := config.Set(config.Defaults(), f.Set); err != nil {
		bad("set", "%v", err)
	}
	f.checkRegions(bad, between)
	return problems
}

func (f *File) checkRegions(bad func(key, format string, args ...any), between func(string, int, int, int)) {
	between("regions", len(f.Regions), 1, maxRegions)
	names, places := map[im.Region]bool{}, map[string]im.Region{}
	for i, r := range f.Regions {
		key := fmt.Sprintf("regions[%d]", i)
		if _, err := im.ParseRegion(string(r.Name)); err != nil {
			bad(key+".name", "%v", err)
		}
		if names[r.Name] {
			bad(key+".name", "%s is listed twice", r.Name)
		}
		names[r.Name] = true
		if ip := net.ParseIP(r.Host); ip == nil || !ip.IsLoopback() {
			bad(key+".host", "%q is not a loopback address, such as 127.0.0.11", r.Host)
		}
		if r.PortOffset < 0 || r.PortOffset > 50_000 {
			bad(key+".port_offset", "%d is not between 0 and 50000", r.PortOffset)
		}
		place := r.Host + " " + strconv.Itoa(r.PortOffset)
		if other, taken := places[place]; taken {
			bad(key+".host", "is the address of region %s too: choose another, or a port_offset", other)
		}
		places[place] = r.Name
		if r.Brokers != 0 && r.Brokers != 1 && r.Brokers != 3 {
			bad(key+".brokers", "%d: want 1, or 3 for a quorum", r.Brokers)
		}
		if r.Epoch > maxEpoch {
			bad(key+".epoch", "%d is not between 1 and %d", r.Epoch, maxEpoch)
		}
		eachCount(r.Services, key+".services", func(key string, n int) { between(key, n, 0, maxInstances) })
	}
}

func eachCount(s Services, prefix string, f func(key string, n int)) {
	f(prefix+".ipconf", s.IPConf)
	f(prefix+".gateway", s.Gateway)
	f(prefix+".router", s.Router)
	f(prefix+".imserver", s.IMServer)
	f(prefix+".replicator", s.Replicator)
}

func badListen(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Sprintf("%q is not of the form host:port", addr)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Sprintf("%q: the host must be a loopback address, such as 127.0.0.1: whoever reaches it can stop the cluster", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Sprintf("%q: the port must be a number from 1 to 65535", addr)
	}
	return ""
}
