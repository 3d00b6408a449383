package consul

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
)

// The meta of a service: what Consul has no field for. Consul takes keys of [A-Za-z0-9_-] and values of 512 bytes.
const (
	metaID       = "id"
	metaRegion   = "region"
	metaAddr     = "addr"
	metaURL      = "url"
	metaStream   = "webtransport"
	metaEpoch    = "epoch"
	metaDraining = "draining"
	metaServes   = "serves" // separated by commas
	metaLease    = "lease"  // which registration it is
	metaSince    = "since"  // when it was made, Unix ms
	metaPrefix   = "prefix" // of its cluster: that of a cluster may begin with another's
)

// reapAfter is how long after it expired an instance that never came back is forgotten. Consul takes a minute at least.
const reapAfter = 10 * time.Minute

func (c *Consul) serviceName(service string) string { return c.cfg.Prefix + "-" + service }

// serviceID is unique on the agent, which may be that of several regions' processes.
func (c *Consul) serviceID(i *im.Instance) string {
	return c.serviceName(i.Service) + "-" + string(i.Region) + "-" + i.ID
}

// registration is how the agent is told of an instance. Its check carries the lease, so that a lease which was taken over
// cannot renew its successor's.
func (c *Consul) registration(i *im.Instance, lease string, since time.Time) *api.AgentServiceRegistration {
	r := &api.AgentServiceRegistration{
		ID: c.serviceID(i), Name: c.serviceName(i.Service), Tags: []string{string(i.Region)},
		Meta: map[string]string{
			metaID: i.ID, metaRegion: string(i.Region), metaAddr: i.Addr, metaURL: i.URL,
			metaLease: lease, metaSince: strconv.FormatInt(since.UnixMilli(), 10), metaPrefix: c.cfg.Prefix,
		},
		Check: &api.AgentServiceCheck{
			CheckID: checkID(c.serviceID(i), lease), Name: "renewed by " + i.Service + " " + i.ID,
			TTL: c.cfg.TTL.String(), Status: api.HealthPassing, DeregisterCriticalServiceAfter: reapAfter.String(),
		},
	}
	if i.WebTransport != "" {
		r.Meta[metaStream] = i.WebTransport
	}
	if i.Epoch > 0 {
		r.Meta[metaEpoch] = strconv.FormatUint(i.Epoch, 10)
	}
	if i.Draining {
		r.Meta[metaDraining] = "true"
	}
	if len(i.Serves) > 0 {
		r.Meta[metaServes] = strings.Join(i.Serves, ",")
	}
	if host, port, err := net.SplitHostPort(i.Addr); err == nil { // for those who ask Consul by DNS
		r.Address = host
		r.Port, _ = strconv.Atoi(port)
	}
	return r
}

func checkID(service, lease string) string { return "service:" + service + ":" + lease }

// entry is an instance as the catalogue has it.
type entry struct {
	im.Instance
	lease string
	since int64
}

// entries reads the instances of a region; services that are not Antipode's are passed over. An instance that two nodes
// name is the one registered later.
func (c *Consul) entries(r im.Region, list []*api.ServiceEntry) []entry {
	var all []entry
	for _, s := range list {
		service, ok := strings.CutPrefix(s.Service.Service, c.cfg.Prefix+"-")
		meta := s.Service.Meta
		if !ok || meta[metaID] == "" || im.Region(meta[metaRegion]) != r || c.foreign(meta[metaPrefix]) {
			continue
		}
		e := entry{Instance: im.Instance{
			Service: service, ID: meta[metaID], Region: r, Addr: meta[metaAddr], URL: meta[metaURL], WebTransport: meta[metaStream], Draining: meta[metaDraining] == "true",
		}, lease: meta[metaLease]}
		e.Epoch, _ = strconv.ParseUint(meta[metaEpoch], 10, 64)
		e.since, _ = strconv.ParseInt(meta[metaSince], 10, 64)
		if names := meta[metaServes]; names != "" {
			e.Serves = strings.Split(names, ",")
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(compare(a.Instance, b.Instance), -cmp.Compare(a.since, b.since), -strings.Compare(a.lease, b.lease))
	})
	return slices.CompactFunc(all, func(a, b entry) bool { return compare(a.Instance, b.Instance) == 0 })
}

// foreign tells whether a service is another cluster's, whose prefix goes on where this one's ends: antipode-b-imserver is
// the imserver of antipode-b, and no service b-imserver of antipode. Builds before this one, and services of others, do not
// name their cluster.
func (c *Consul) foreign(prefix string) bool { return prefix != "" && prefix != c.cfg.Prefix }

// instances strips entries of what is Consul's.
func instances(list []entry) []im.Instance {
	var all []im.Instance
	for _, e := range list {
		all = append(all, e.Instance)
	}
	return all
}

// compare orders instances of one region.
func compare(a, b im.Instance) int {
	return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.ID, b.ID))
}

func equal(a, b im.Instance) bool {
	return compare(a, b) == 0 && a.Region == b.Region && a.Addr == b.Addr && a.URL == b.URL && a.WebTransport == b.WebTransport && a.Epoch == b.Epoch &&
		a.Draining == b.Draining && slices.Equal(a.Serves, b.Serves)
}
