package ipconf

import (
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
	"github.com/antipode-im/antipode/wire"
)

// Handler serves GET /v1/endpoints and /v1/catalogue, and POST /v1/endpoints:batch. Parameters of the first, all optional:
// uid, device, platform, network, region (a wanted one), home (the user's), last (the gateway used last, as region/id or id),
// rtt (milliseconds per region, as in eu:23,us:110), failed (gateways that could not be used, as region/id,region/id).
// Malformed hints are passed over: a list is worth more than an error.
func (s *IPConf) Handler() http.Handler {
	mux := http.NewServeMux()
	preflight := func(w http.ResponseWriter, r *http.Request) {
		s.allow(w, r)
		w.WriteHeader(http.StatusNoContent)
	}
	mux.HandleFunc("GET /v1/endpoints", s.endpoints)
	mux.HandleFunc("OPTIONS /v1/endpoints", preflight)
	mux.HandleFunc("GET /v1/catalogue", s.serveCatalogue)
	mux.HandleFunc("OPTIONS /v1/catalogue", preflight)
	mux.HandleFunc("POST /v1/endpoints:batch", s.batch)
	return mux
}

// allow sets the CORS headers.
func (s *IPConf) allow(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	origin := r.Header.Get("Origin")
	switch {
	case len(s.cfg.Origins) == 0 || slices.Contains(s.cfg.Origins, "*"):
		h.Set("Access-Control-Allow-Origin", "*")
	case slices.Contains(s.cfg.Origins, origin):
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
	default:
		h.Add("Vary", "Origin")
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET")
	h.Set("Access-Control-Allow-Headers", "If-None-Match")
	h.Set("Access-Control-Expose-Headers", "ETag, Retry-After")
	h.Set("Access-Control-Max-Age", "600")
}

// outcome is what became of a request.
type outcome struct {
	code  im.Code // empty: there is a list
	why   string
	retry time.Duration
	etag  uint64
	first int // gateway in the view; -1: none
}

// work is what an answer needs; it is reused.
type work struct {
	places []rank.Place
	body   []byte
}

func newWorkPool() *sync.Pool {
	return &sync.Pool{New: func() any { return &work{places: make([]rank.Place, 0, 64), body: make([]byte, 0, 8<<10)} }}
}

// answer ranks for one client and appends the JSON of its list to w.body. With have, it leaves the list away if that names
// an answer that is still good. It allocates nothing.
func (s *IPConf) answer(w *work, v *view, q *request, ip netip.Addr, have uint64, now time.Time) outcome {
	c := s.locator.locate(q, ip, now, nil)
	s.reports(v, q, now)
	c.Last = findLast(v, s.locator, q.last)
	w.places = v.table.Draw(w.places[:0], &c, rand.Uint64())
	busy := false
	if free := v.table.Free(c.Forbidden); free > 0 {
		if short := rank.Shortage(free, s.cfg.Reserve); short > 0 {
			busy = true
			// Who comes back to its last gateway takes no more room there than its session did.
			resumes := len(w.places) > 0 && w.places[0].Why == rank.LastUsed
			if !resumes && rand.Float64() < short {
				return outcome{code: im.CodeOverloaded, why: "all regions are nearly full", retry: rank.ShortageWait(rand.Float64()), first: -1}
			}
		}
	}
	if len(w.places) == 0 {
		return s.nobody(v, &c)
	}
	first := w.places[0]
	home := &v.regions[v.table.Gateway(first.Gateway).Region]
	busy = busy || home.Share < 1 || first.Why == rank.Displaced
	policy, variant := s.policies.of(kindOf(q.platform), classOf(q.network), busy)
	etag := s.tag(v, &c, variant>>1) // which of the two a draw leads to says nothing of the other
	if have == etag && q.failed == "" {
		return outcome{etag: etag, first: -1}
	}
	if wait := s.gate.Ask(now, s.cfg.GatewayRate*v.open/v.ipconfs, first.Why == rank.LastUsed, rand.Float64()); wait > 0 {
		return outcome{code: im.CodeOverloaded, why: "many come at once", retry: wait, first: -1}
	}
	v.table.Take(first.Gateway)
	v.gateways[first.Gateway].sent.Add(now)

	b := append(w.body, `{"policy":`...)
	b = append(b, policy...)
	b = append(b, `,"gateways":[`...)
	for i, p := range w.places {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, v.gateways[p.Gateway].json...)
		b = appendScore(b, p.Score)
		b = append(b, '}')
	}
	b = append(b, `],"region":"`...)
	b = append(b, s.cfg.Region...)
	b = append(b, `","ttl_ms":`...)
	b = strconv.AppendInt(b, s.cfg.TTL.Milliseconds(), 10)
	b = append(b, `,"server_time_ms":`...)
	b = strconv.AppendInt(b, now.UnixMilli(), 10)
	if v.catalogue != nil {
		b = append(b, `,"catalogue":"`...)
		b = append(b, v.catalogue.version...)
		b = append(b, '"')
	}
	w.body = append(b, '}')
	return outcome{etag: etag, first: first.Gateway}
}

// tag names what a client's list depends on: the fleet, its class of policies, and where and who the client is as far as it counts, but no
// chance. A list of the same tag is as good.
func (s *IPConf) tag(v *view, c *rank.Client, class uint64) uint64 {
	who := uint64(c.Want+1)<<24 | uint64(c.Home+1)<<16 | class<<1
	if c.Canary {
		who |= 1
	}
	h := v.epoch
	for _, part := range [...]uint64{who, uint64(c.Forbidden), v.table.Order(c)} {
		h = mix(h ^ part)
	}
	return h | 1 // 0 is none
}

// nobody says why there is no list: no room, or no gateway at all.
func (s *IPConf) nobody(v *view, c *rank.Client) outcome {
	for i := range v.regions {
		if v.table.Standing(i, c).Closed == "full" {
			return outcome{code: im.CodeOverloaded, why: "all regions are full", retry: rank.ShortageWait(rand.Float64()), first: -1}
		}
	}
	return outcome{code: im.CodeUnready, why: "no gateway takes newcomers now", retry: time.Second, first: -1}
}

// reports notes the gateways that a client could not use.
func (s *IPConf) reports(v *view, q *request, now time.Time) {
	rest := q.failed
	for n := 0; rest != "" && n < maxFailed; n++ {
		var name string
		name, rest, _ = strings.Cut(rest, ",")
		if i := findLast(v, s.locator, name); i >= 0 {
			s.fleet.report(v.gateways[i], now)
		}
	}
}

// findLast finds a gateway that a client names: region/id, or an id alone.
func findLast(v *view, l *locator, name string) int {
	if name == "" {
		return -1
	}
	region, id, full := strings.Cut(name, "/")
	if !full {
		return v.table.Find(-1, name)
	}
	if r := l.parse(region); r >= 0 {
		return v.table.Find(r, id)
	}
	return -1
}

// appendScore writes a number between 0 and 1 with three digits.
func appendScore(b []byte, score float32) []byte {
	n := int(score*1000 + 0.5)
	if n >= 1000 {
		return append(b, '1')
	}
	return append(b, '0', '.', byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
}

// appendString writes a JSON string.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < 0x20 || c == '<' || c == '>' || c == '&' || c == utf8.RuneError && size == 1:
			if c == utf8.RuneError {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
		default:
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return append(b, '"')
}

// staleIfError is how long a cache may serve an old list while ipconf does not answer (RFC 5861): a client would use its
// last list then too.
const staleIfError = 24 * time.Hour

// homeHeader is where a trusted proxy, which has looked at who the user is, says where the user is at home: it is believed
// before the client's own word. The last one counts, which is the proxy's own.
const homeHeader = "Antipode-Home"

func (s *IPConf) endpoints(w http.ResponseWriter, r *http.Request) {
	s.allow(w, r)
	v := s.current.Load()
	q := parseQuery(r.URL.RawQuery)
	q.itself = true
	if home, ok := r.Header[homeHeader]; ok && contains(s.cfg.TrustedProxies, hostAddr(r.RemoteAddr)) {
		q.home = home[len(home)-1]
	}
	ip := clientAddr(hostAddr(r.RemoteAddr), r.Header["X-Forwarded-For"], s.cfg.TrustedProxies)
	now := time.Now()
	if !s.admit(w, r, ip, now) {
		return
	}
	buf := s.work.Get().(*work)
	defer s.work.Put(buf)
	buf.body = buf.body[:0]
	o := s.answer(buf, v, &q, ip, parseETag(r.Header.Get("If-None-Match")), now)
	s.count(r, v, o)
	if o.code != "" {
		s.deny(w, o.code, o.why, o.retry)
		return
	}
	h := w.Header()
	h["Etag"] = []string{formatETag(o.etag)}
	h["Cache-Control"] = s.cacheControl
	if o.first < 0 {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	write(w, http.StatusOK, buf.body)
}

// admit refuses an address that asks too often, and tells whether it did not.
func (s *IPConf) admit(w http.ResponseWriter, r *http.Request, ip netip.Addr, now time.Time) bool {
	wait := s.addresses.ask(ip, now)
	if wait == 0 {
		return true
	}
	s.metrics.limit(r.Context())
	s.deny(w, im.CodeTooManyRequests, "too many requests of your address in a short time", wait)
	return false
}

func (s *IPConf) count(r *http.Request, v *view, o outcome) {
	switch {
	case o.first >= 0:
		s.metrics.answered(r.Context(), v.table.Gateway(o.first).Region)
	case o.code == "":
		s.metrics.unchanged(r.Context())
	case o.code == im.CodeOverloaded:
		s.metrics.delayed(r.Context())
	default:
		s.metrics.answered(r.Context(), -1)
	}
}

// An ETag is weak (RFC 9110, 8.8.1): two answers of one tag are equally good lists, though not the same draw.
func formatETag(tag uint64) string { return `W/"` + strconv.FormatUint(tag, 16) + `"` }

func parseETag(header string) uint64 {
	text, ok := strings.CutPrefix(header, `W/"`)
	if !ok {
		return 0
	}
	tag, err := strconv.ParseUint(strings.TrimSuffix(text, `"`), 16, 64)
	if err != nil {
		return 0
	}
	return tag
}

// matches tells whether a list of ETags names one.
func matches(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if p := strings.TrimSpace(part); p == etag || p == "*" {
			return true
		}
	}
	return false
}

func (s *IPConf) refuse(w http.ResponseWriter, _ *http.Request, why string, retry time.Duration) {
	s.deny(w, im.CodeUnready, why, retry)
}

// deny answers with an error that says when to come back.
func (s *IPConf) deny(w http.ResponseWriter, code im.Code, why string, retry time.Duration) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if retry > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((retry+time.Second-1)/time.Second), 10))
	}
	b, err := wire.ErrorJSON(wire.ErrorFrame(&im.Error{Code: code, Detail: why, RetryAfter: retry}))
	if err != nil {
		b = nil
	}
	write(w, code.Spec().HTTP, b)
}

func write(w http.ResponseWriter, status int, b []byte) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client is gone
}
