// Package auth checks the tokens that clients present: JSON Web Tokens signed with a key that the operator configured.
// It can only verify. Issuing is the business of the operator's login service; package gateway/issue does it for
// development.
package auth

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/antipode-im/antipode/im"
)

// Audience is what a token's aud must name.
const Audience = "antipode"

// MaxToken bounds a token, in bytes.
const MaxToken = 4096

// The algorithms that a key may have (RFC 8037, RFC 7518).
const (
	EdDSA = "EdDSA" // Ed25519
	HS256 = "HS256"
)

// Key verifies tokens whose header names its id. Several keys at once allow rotation: add the new one everywhere, sign
// with it, remove the old one when its last token has expired.
type Key struct {
	ID        string // kid
	Algorithm string // EdDSA or HS256: a token signed in another way with this key's id is refused
	// Public is the Ed25519 public key: PEM (SubjectPublicKeyInfo) or base64 of its 32 bytes. EdDSA only.
	Public string
	// Secret is base64 of at least 32 bytes. HS256 only. Whoever holds it can sign.
	Secret string
}

// String does not show the secret.
func (k Key) String() string { return k.Algorithm + " key " + k.ID }

// Config is what tokens must be like.
type Config struct {
	Keys   []Key
	Issuer string        // if set, iss must be it
	Leeway time.Duration // of exp and nbf, for clocks that differ; 0: 10 s
}

// Identity is who a token speaks for.
type Identity struct {
	UID     im.UID    // sub
	Expires time.Time // exp, without leeway
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	keys   map[string]verifyKey
	parser *jwt.Parser
	leeway time.Duration
}

type verifyKey struct {
	algorithm string
	key       any
}

// NewVerifier returns a verifier for the keys.
func NewVerifier(cfg Config) (*Verifier, error) { return newVerifier(cfg, time.Now) }

func newVerifier(cfg Config, now func() time.Time) (*Verifier, error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("auth: no keys: no token could be accepted")
	}
	v := &Verifier{keys: make(map[string]verifyKey, len(cfg.Keys)), leeway: cfg.Leeway}
	if v.leeway == 0 {
		v.leeway = 10 * time.Second
	}
	for _, k := range cfg.Keys {
		if k.ID == "" {
			return nil, errors.New("auth: a key has no id")
		}
		if _, twice := v.keys[k.ID]; twice {
			return nil, fmt.Errorf("auth: two keys have the id %q", k.ID)
		}
		parsed, err := k.parse()
		if err != nil {
			return nil, fmt.Errorf("auth: key %q: %w", k.ID, err)
		}
		v.keys[k.ID] = verifyKey{k.Algorithm, parsed}
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{EdDSA, HS256}), jwt.WithAudience(Audience), jwt.WithExpirationRequired(),
		jwt.WithLeeway(v.leeway), jwt.WithTimeFunc(now), jwt.WithStrictDecoding(),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	v.parser = jwt.NewParser(options...)
	return v, nil
}

func (k Key) parse() (any, error) {
	switch k.Algorithm {
	case EdDSA:
		if k.Secret != "" {
			return nil, errors.New("an EdDSA key has no secret here: a gateway only verifies")
		}
		if block, _ := pem.Decode([]byte(k.Public)); block != nil {
			pub, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("public: %w", err)
			}
			ed, ok := pub.(ed25519.PublicKey)
			if !ok {
				return nil, fmt.Errorf("public: want an Ed25519 key, is %T", pub)
			}
			return ed, nil
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(k.Public))
		if err != nil || len(b) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("public: want PEM or base64 of %d bytes", ed25519.PublicKeySize)
		}
		return ed25519.PublicKey(b), nil
	case HS256:
		if k.Public != "" {
			return nil, errors.New("an HS256 key has no public part")
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(k.Secret))
		if err != nil {
			return nil, errors.New("secret: want base64")
		}
		if len(b) < 32 {
			return nil, fmt.Errorf("secret: want at least 32 bytes, is %d", len(b))
		}
		return b, nil
	}
	return nil, fmt.Errorf("algorithm %q: want EdDSA or HS256", k.Algorithm)
}

// Verify returns who the token speaks for. The error is *im.Error: token_expired when only the time is over, bad_token
// for everything else; its detail never holds a part of the token.
func (v *Verifier) Verify(token string) (Identity, error) {
	if token == "" {
		return Identity{}, im.Errorf(im.CodeBadToken, "there is no token")
	}
	if len(token) > MaxToken {
		return Identity{}, im.Errorf(im.CodeBadToken, "the token has %d bytes; at most %d are allowed", len(token), MaxToken)
	}
	var claims jwt.RegisteredClaims
	if _, err := v.parser.ParseWithClaims(token, &claims, v.keyOf); err != nil {
		return Identity{}, refusal(err)
	}
	uid, err := im.ParseUID(claims.Subject)
	if err != nil {
		return Identity{}, im.Errorf(im.CodeBadToken, "the token's sub is no uid")
	}
	return Identity{UID: uid, Expires: claims.ExpiresAt.Time}, nil
}

func (v *Verifier) keyOf(t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string)
	k, ok := v.keys[kid]
	if !ok {
		return nil, errUnknownKey
	}
	if t.Method.Alg() != k.algorithm {
		return nil, errOtherAlgorithm
	}
	return k.key, nil
}

var (
	errUnknownKey     = errors.New("unknown key id")
	errOtherAlgorithm = errors.New("another algorithm than its key's")
)

func refusal(err error) error {
	switch {
	case errors.Is(err, errUnknownKey):
		return im.Errorf(im.CodeBadToken, "the token's kid names no key of this gateway")
	case errors.Is(err, errOtherAlgorithm):
		return im.Errorf(im.CodeBadToken, "the token is signed in another way than its key's")
	case errors.Is(err, jwt.ErrTokenMalformed):
		return im.Errorf(im.CodeBadToken, "the token is malformed")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return im.Errorf(im.CodeBadToken, "the token's signature is wrong")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return im.Errorf(im.CodeBadToken, "the token has no exp, aud or iss")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return im.Errorf(im.CodeBadToken, "the token's aud is not %s", Audience)
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return im.Errorf(im.CodeBadToken, "the token has another iss")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return im.Errorf(im.CodeBadToken, "the token is not valid yet")
	case errors.Is(err, jwt.ErrTokenExpired):
		return im.Errorf(im.CodeTokenExpired, "the token has expired: get a new one")
	}
	return im.Errorf(im.CodeBadToken, "the token is refused")
}
