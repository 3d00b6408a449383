// Package issue makes tokens for development and tests. No production binary path reaches it: operators' login services
// sign tokens, gateways verify them (package gateway/auth).
package issue

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
)

// Issuer signs tokens with an Ed25519 key.
type Issuer struct {
	kid     string
	private ed25519.PrivateKey
}

// New returns an issuer. seed is 32 bytes, kept by the caller so that tokens outlive a restart; nil makes a fresh key.
func New(kid string, seed []byte) (*Issuer, error) {
	if kid == "" {
		return nil, fmt.Errorf("issue: the key needs an id")
	}
	if seed == nil {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("issue: the seed has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return &Issuer{kid: kid, private: ed25519.NewKeyFromSeed(seed)}, nil
}

// Key is what verifies the issuer's tokens.
func (i *Issuer) Key() auth.Key {
	public := i.private.Public().(ed25519.PublicKey)
	return auth.Key{ID: i.kid, Algorithm: auth.EdDSA, Public: base64.StdEncoding.EncodeToString(public)}
}

// Token returns a token for a user, good until expires.
func (i *Issuer) Token(uid im.UID, expires time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{
		Subject: string(uid), Audience: jwt.ClaimStrings{auth.Audience},
		ExpiresAt: jwt.NewNumericDate(expires), IssuedAt: jwt.NewNumericDate(time.Now()),
	})
	t.Header["kid"] = i.kid
	s, err := t.SignedString(i.private)
	if err != nil {
		return "", fmt.Errorf("issue: %w", err)
	}
	return s, nil
}
