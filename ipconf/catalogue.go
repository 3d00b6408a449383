package ipconf

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// signed is the catalogue as it is served.
type signed struct {
	version string
	body    []byte
	changes uint64    // of the fleet, that it was made for
	ipconfs string    // that it names
	renew   time.Time // when it is signed anew though nothing changed
}

// sign signs the catalogue, if it changed or grows old. Only the view's goroutine calls it.
func (s *IPConf) sign(now time.Time) {
	if s.cfg.Signing == nil {
		return
	}
	old := s.catalogue.Load()
	gateways, changes := s.fleet.all(s.regions())
	ipconfs := s.ipconfURLs()
	named, err := json.Marshal(ipconfs)
	if err != nil || old != nil && old.changes == changes && old.ipconfs == string(named) && now.Before(old.renew) {
		return
	}
	c := wire.Catalogue{
		Gateways: gateways, IPConfs: ipconfs, IssuedMs: now.UnixMilli(), UntilMs: now.Add(s.cfg.CatalogueTTL).UnixMilli(),
	}
	content, err := json.Marshal([]any{gateways, ipconfs})
	if err != nil { // strings: cannot fail
		return
	}
	sum := sha256.Sum256(content)
	c.Version = hex.EncodeToString(sum[:8])
	envelope, err := wire.SignCatalogue(c, s.cfg.Signing.ID, s.cfg.Signing.Key)
	if err != nil {
		s.deps.Logger.Error("the catalogue cannot be signed", "error", err)
		return
	}
	body, err := json.Marshal(envelope)
	if err != nil {
		return
	}
	s.metrics.signed()
	s.catalogue.Store(&signed{c.Version, body, changes, string(named), now.Add(s.cfg.CatalogueTTL / 2)})
}

// ipconfURLs lists the public URLs of all ipconfs that are known.
func (s *IPConf) ipconfURLs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	urls := []string{}
	for _, list := range s.ipconfs {
		for _, i := range list {
			if i.URL != "" {
				urls = append(urls, i.URL)
			}
		}
	}
	slices.Sort(urls)
	return slices.Compact(urls)
}

// catalogueWeek is how long a cache may serve an old catalogue while no ipconf answers: its own date bounds the trust in it.
const catalogueWeek = 7 * 24 * time.Hour

// serveCatalogue serves GET /v1/catalogue. It is the same for everybody, so any cache may keep it.
func (s *IPConf) serveCatalogue(w http.ResponseWriter, r *http.Request) {
	s.allow(w, r)
	ip := clientAddr(hostAddr(r.RemoteAddr), r.Header["X-Forwarded-For"], s.cfg.TrustedProxies)
	if !s.admit(w, r, ip, time.Now()) {
		return
	}
	c := s.catalogue.Load()
	if c == nil {
		s.refuse(w, r, "no catalogue is signed here: set ipconf.signing", 0)
		return
	}
	h := w.Header()
	etag := `"` + c.version + "-" + strconv.FormatInt(c.renew.Unix(), 16) + `"`
	h.Set("ETag", etag)
	h.Set("Cache-Control", "public, max-age="+seconds(s.cfg.TTL)+", stale-if-error="+seconds(catalogueWeek))
	if matches(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	write(w, http.StatusOK, c.body)
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
