package wire

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Catalogue is the JSON that lists all gateways and ipconfs: what may be trusted, whoever hands it on, once its signature
// is checked. It ranks nothing.
type Catalogue struct {
	Version  string     `json:"version"`   // names the content: equal content has an equal version, whichever ipconf signed it
	IssuedMs int64      `json:"issued_ms"` // Unix ms
	UntilMs  int64      `json:"until_ms"`  // not to be trusted after it
	Gateways []Endpoint `json:"gateways"`  // without scores, by region and id
	IPConfs  []string   `json:"ipconfs"`   // base URLs
}

// SignedCatalogue is the JSON answer of ipconf's GET /v1/catalogue.
type SignedCatalogue struct {
	Catalogue string `json:"catalogue"` // base64 (RFC 4648, section 4) of a Catalogue's JSON
	Key       string `json:"key"`       // id of the key
	Signature string `json:"signature"` // base64 of the Ed25519 signature of CatalogueContext and the JSON
}

// CatalogueContext comes before what is signed, so that a signature of this key over something else is none of this.
const CatalogueContext = "antipode.v1 catalogue\n"

// MaxCatalogueBytes bounds a signed catalogue.
const MaxCatalogueBytes = 8 << 20

// SignCatalogue signs.
func SignCatalogue(c Catalogue, key string, private ed25519.PrivateKey) (SignedCatalogue, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return SignedCatalogue{}, fmt.Errorf("catalogue: %w", err)
	}
	signature := ed25519.Sign(private, append([]byte(CatalogueContext), b...))
	return SignedCatalogue{
		Catalogue: base64.StdEncoding.EncodeToString(b), Key: key, Signature: base64.StdEncoding.EncodeToString(signature),
	}, nil
}

// OpenCatalogue checks a signed catalogue against the keys, by id, and reads it. One that is no longer good at the time now
// is an error.
func OpenCatalogue(b []byte, keys map[string]ed25519.PublicKey, now time.Time) (Catalogue, error) {
	if len(b) > MaxCatalogueBytes {
		return Catalogue{}, fmt.Errorf("catalogue: %d bytes: want %d at most", len(b), MaxCatalogueBytes)
	}
	var s SignedCatalogue
	if err := json.Unmarshal(b, &s); err != nil {
		return Catalogue{}, fmt.Errorf("catalogue: %w", err)
	}
	key, ok := keys[s.Key]
	if !ok || len(key) != ed25519.PublicKeySize {
		return Catalogue{}, fmt.Errorf("catalogue: signed with key %q, which is not among those trusted", s.Key)
	}
	content, err1 := base64.StdEncoding.DecodeString(s.Catalogue)
	signature, err2 := base64.StdEncoding.DecodeString(s.Signature)
	if err := errors.Join(err1, err2); err != nil {
		return Catalogue{}, fmt.Errorf("catalogue: %w", err)
	}
	if !ed25519.Verify(key, append([]byte(CatalogueContext), content...), signature) {
		return Catalogue{}, errors.New("catalogue: the signature is not good")
	}
	var c Catalogue
	if err := json.Unmarshal(content, &c); err != nil {
		return Catalogue{}, fmt.Errorf("catalogue: %w", err)
	}
	if until := time.UnixMilli(c.UntilMs); !now.Before(until) {
		return Catalogue{}, fmt.Errorf("catalogue: was good until %s", until.UTC().Format(time.RFC3339))
	}
	for i, g := range c.Gateways {
		if g.ID == "" || g.URL == "" {
			return Catalogue{}, fmt.Errorf("catalogue: gateway %d has no id or no url", i)
		}
	}
	return c, nil
}

// EndpointOf is how a client is told of a gateway instance.
func EndpointOf(i im.Instance) Endpoint {
	base := strings.TrimSuffix(strings.TrimSuffix(i.URL, "/"), "/v1/ws")
	if rest, ok := strings.CutPrefix(base, "ws"); ok { // registered by its WebSocket URL
		base = "http" + rest
	}
	return Endpoint{ID: i.ID, Region: i.Region, URL: WebSocketURL(base), PullURL: base, WebTransport: i.WebTransport}
}
