package cluster

import (
	"net"
	"strconv"

	"github.com/antipode-im/antipode/internal/backend"
)

// hostPort splits an address of the plan, which is whole.
func hostPort(addr string) (string, int) {
	host, text, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(text)
	return host, port
}

func kafkaOf(p *Plan, r *RegionPlan, m MemberPlan) *backend.Kafka {
	host, port := hostPort(m.Listen)
	_, controller := hostPort(m.RPC)
	c := backend.KafkaConfig{
		Name: m.Name, Dir: m.Dir, Host: host, Port: port, ControllerPort: controller, Node: m.Number,
		Cluster: "antipode-" + string(r.Name), Heap: p.File.Kafka.Heap, Quick: p.File.Kafka.Quick,
	}
	for _, peer := range r.Of(backendKafka) {
		host, port := hostPort(peer.RPC)
		c.Peers = append(c.Peers, backend.KafkaPeer{Node: peer.Number, Host: host, ControllerPort: port})
	}
	return backend.NewKafka(c)
}

// postgresOf gives all servers the same password: a service's configuration names one.
func postgresOf(m MemberPlan, password string) *backend.Postgres {
	host, port := hostPort(m.Listen)
	return backend.NewPostgres(backend.PostgresConfig{Name: m.Name, Dir: m.Dir, Host: host, Port: port, Password: password})
}

func redisOf(m MemberPlan) *backend.Redis {
	host, port := hostPort(m.Listen)
	return backend.NewRedis(backend.RedisConfig{Name: m.Name, Dir: m.Dir, Host: host, Port: port})
}

func consulOf(p *Plan, m MemberPlan) *backend.Consul {
	host, http := hostPort(m.Listen)
	_, server := hostPort(m.RPC)
	_, lan := hostPort(m.LAN)
	_, wan := hostPort(m.WAN)
	c := backend.ConsulConfig{
		Name: m.Name, Dir: m.Dir, Host: host, Datacenter: string(m.Region),
		Ports: backend.ConsulPorts{HTTP: http, Server: server, LAN: lan, WAN: wan},
	}
	for _, other := range p.Members() {
		if other.Kind == backendConsul && other.Region != m.Region {
			c.WAN = append(c.WAN, other.WAN)
		}
	}
	return backend.NewConsul(c)
}
