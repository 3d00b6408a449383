package ipconf

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	maxBatch      = 1000
	maxBatchBytes = 1 << 20
)

// BatchClient is one client of a batch: the parameters of GET /v1/endpoints, and its address.
type BatchClient struct {
	IP       string `json:"ip"`
	UID      string `json:"uid"`
	Device   string `json:"device"`
	Platform string `json:"platform"`
	Network  string `json:"network"`
	Region   string `json:"region"`
	Home     string `json:"home"`
	Last     string `json:"last"`
	RTT      string `json:"rtt"`
	Failed   string `json:"failed"`
}

// Batch is the body of POST /v1/endpoints:batch. The answer is {"answers": […]}, in the order of the clients: what GET
// /v1/endpoints would answer, or {"error": {…}}.
type Batch struct {
	Clients []BatchClient `json:"clients"`
}

// batch serves callers that ask for others: login services, DNS servers, proxies. They name addresses, so only those of
// Config.BatchFrom may. There is no default: behind a balancer that is not among the trusted proxies, everybody would seem to
// come from a private address.
func (s *IPConf) batch(w http.ResponseWriter, r *http.Request) {
	caller := clientAddr(hostAddr(r.RemoteAddr), r.Header["X-Forwarded-For"], s.cfg.TrustedProxies)
	if !contains(s.cfg.BatchFrom, caller) {
		http.Error(w, "batches are for callers that ipconf.batch_from names; this one comes from "+caller.String(), http.StatusForbidden)
		return
	}
	var b Batch
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBatchBytes+1))
	if err == nil && len(body) <= maxBatchBytes {
		err = json.Unmarshal(body, &b)
	}
	switch {
	case err != nil:
		s.deny(w, im.CodeBadRequest, "the body is not the JSON of a batch: "+err.Error(), 0)
		return
	case len(body) > maxBatchBytes || len(b.Clients) == 0 || len(b.Clients) > maxBatch:
		s.deny(w, im.CodeBadRequest, "want 1 to 1000 clients, in a megabyte at most", 0)
		return
	}
	v, now := s.current.Load(), time.Now()
	buf := s.work.Get().(*work)
	defer s.work.Put(buf)
	buf.body = append(buf.body[:0], `{"answers":[`...)
	for i := range b.Clients {
		if i > 0 {
			buf.body = append(buf.body, ',')
		}
		c := &b.Clients[i]
		q := request{
			uid: c.UID, device: c.Device, platform: c.Platform, network: c.Network, region: c.Region, home: c.Home,
			last: c.Last, rtt: c.RTT, failed: c.Failed,
		}
		ip, err := netip.ParseAddr(c.IP)
		if err != nil {
			ip = netip.Addr{}
		}
		o := s.answer(buf, v, &q, ip.Unmap(), 0, now)
		s.count(r, v, o)
		if o.code != "" {
			e, err := wire.ErrorJSON(wire.ErrorFrame(&im.Error{Code: o.code, Detail: o.why, RetryAfter: o.retry}))
			if err != nil {
				e = []byte("{}")
			}
			buf.body = append(append(append(buf.body, `{"error":`...), e...), '}')
		}
	}
	buf.body = append(buf.body, "]}"...)
	w.Header().Set("Cache-Control", "no-store")
	write(w, http.StatusOK, buf.body)
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
