package ipconf

import (
	"net/url"
	"strings"

	"github.com/antipode-im/antipode/wire"
)

// request is what a client says of itself. All of it are hints, and none is checked: a list is worth more than an error.
type request struct {
	uid, device, platform, network string
	region, home                   string // wanted; of the user
	last                           string // region/id, or an id alone
	rtt                            string // eu:23,us:110
	failed                         string // region/id,region/id: gateways that could not be used
	itself                         bool   // it asks for itself: what it measured is learned
}

// maxFailed bounds the reports of one request.
const maxFailed = 8

// parseQuery reads a query string. It allocates only for what is escaped.
func parseQuery(q string) (r request) {
	for q != "" {
		var pair string
		pair, q, _ = strings.Cut(q, "&")
		key, value, _ := strings.Cut(pair, "=")
		field := r.field(key)
		if field == nil || *field != "" {
			continue
		}
		if strings.ContainsAny(value, "%+") {
			plain, err := url.QueryUnescape(value)
			if err != nil {
				continue
			}
			value = plain
		}
		*field = value
	}
	return r
}

func (r *request) field(key string) *string {
	switch key {
	case "uid":
		return &r.uid
	case "device":
		return &r.device
	case "platform":
		return &r.platform
	case "network":
		return &r.network
	case "region":
		return &r.region
	case "home":
		return &r.home
	case "last":
		return &r.last
	case "rtt":
		return &r.rtt
	case "failed":
		return &r.failed
	}
	return nil
}

// endpointJSON encodes an endpoint up to its score, once for all answers.
func endpointJSON(e wire.Endpoint) []byte {
	b := []byte(`{"id":`)
	b = appendString(b, e.ID)
	b = append(b, `,"region":`...)
	b = appendString(b, string(e.Region))
	b = append(b, `,"url":`...)
	b = appendString(b, e.URL)
	b = append(b, `,"pull_url":`...)
	b = appendString(b, e.PullURL)
	if e.WebTransport != "" {
		b = append(b, `,"webtransport_url":`...)
		b = appendString(b, e.WebTransport)
	}
	return append(b, `,"score":`...)
}
