package auth_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func TestVerify(t *testing.T) {
	issuer, err := issue.New("ed", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	verifier, err := auth.NewVerifier(auth.Config{
		Keys: []auth.Key{
			issuer.Key(),
			{ID: "hs", Algorithm: auth.HS256, Secret: base64.StdEncoding.EncodeToString(secret)},
		},
		Issuer: "login.example", Leeway: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	claims := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "ann", "aud": "antipode", "iss": "login.example", "exp": now.Add(time.Hour).Unix()}
		if change != nil {
			change(c)
		}
		return c
	}
	sign := func(kid any, method jwt.SigningMethod, key any, c jwt.MapClaims) string {
		t.Helper()
		token := jwt.NewWithClaims(method, c)
		if kid != nil {
			token.Header["kid"] = kid
		}
		s, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ed := func(change func(jwt.MapClaims)) string {
		return sign("ed", jwt.SigningMethodEdDSA, private, claims(change))
	}
	good := ed(nil)
	for _, test := range []struct {
		name, token string
		code        im.Code // empty: accepted
	}{
		{"EdDSA", good, ""},
		{"HS256", sign("hs", jwt.SigningMethodHS256, secret, claims(nil)), ""},
		{"one of several audiences", ed(func(c jwt.MapClaims) { c["aud"] = []string{"other", "antipode"} }), ""},
		{"expired within the leeway", ed(func(c jwt.MapClaims) { c["exp"] = now.Add(-5 * time.Second).Unix() }), ""},
		{"early within the leeway", ed(func(c jwt.MapClaims) { c["nbf"] = now.Add(5 * time.Second).Unix() }), ""},
		{"nothing", "", im.CodeBadToken},
		{"long", strings.Repeat("a", auth.MaxToken+1), im.CodeBadToken},
		{"no token", "a.b.c", im.CodeBadToken},
		{"changed", good[:len(good)-4] + "AAAA", im.CodeBadToken},
		{"unsigned", sign("ed", jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil)), im.CodeBadToken},
		{"no kid", sign(nil, jwt.SigningMethodEdDSA, private, claims(nil)), im.CodeBadToken},
		{"a kid that is no text", sign(7, jwt.SigningMethodEdDSA, private, claims(nil)), im.CodeBadToken},
		{"unknown kid", sign("old", jwt.SigningMethodEdDSA, private, claims(nil)), im.CodeBadToken},
		{"the public key as a secret", sign("ed", jwt.SigningMethodHS256, []byte(private.Public().(ed25519.PublicKey)), claims(nil)), im.CodeBadToken},
		{"another algorithm", sign("hs", jwt.SigningMethodHS512, secret, claims(nil)), im.CodeBadToken},
		{"no exp", ed(func(c jwt.MapClaims) { delete(c, "exp") }), im.CodeBadToken},
		{"no aud", ed(func(c jwt.MapClaims) { delete(c, "aud") }), im.CodeBadToken},
		{"wrong aud", ed(func(c jwt.MapClaims) { c["aud"] = "bank" }), im.CodeBadToken},
		{"wrong aud and expired", ed(func(c jwt.MapClaims) { c["aud"], c["exp"] = "bank", 1 }), im.CodeBadToken},
		{"wrong iss", ed(func(c jwt.MapClaims) { c["iss"] = "evil.example" }), im.CodeBadToken},
		{"not yet", ed(func(c jwt.MapClaims) { c["nbf"] = now.Add(time.Minute).Unix() }), im.CodeBadToken},
		{"no sub", ed(func(c jwt.MapClaims) { delete(c, "sub") }), im.CodeBadToken},
		{"a sub that is no uid", ed(func(c jwt.MapClaims) { c["sub"] = "ann:bob" }), im.CodeBadToken},
		{"expired", ed(func(c jwt.MapClaims) { c["exp"] = now.Add(-time.Minute).Unix() }), im.CodeTokenExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			identity, err := verifier.Verify(test.token)
			if im.CodeOf(err) != test.code {
				t.Fatalf("got %v, want code %q", err, test.code)
			}
			if test.code == "" && (identity.UID != "ann" || identity.Expires.IsZero()) {
				t.Errorf("identity is %+v", identity)
			}
			if err != nil && test.token != "" && strings.Contains(err.Error(), test.token) {
				t.Error("the error quotes the token")
			}
		})
	}
}

// The issuer for development makes what a verifier with its key takes.
func TestIssuer(t *testing.T) {
	issuer, err := issue.New("dev", nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.NewVerifier(auth.Config{Keys: []auth.Key{issuer.Key()}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Token("ann", time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if identity, err := verifier.Verify(token); err != nil || identity.UID != "ann" {
		t.Errorf("got %+v, %v", identity, err)
	}
	if _, err := issue.New("", nil); err == nil {
		t.Error("an issuer without a key id")
	}
	if _, err := issue.New("dev", []byte("short")); err == nil {
		t.Error("an issuer with a short seed")
	}
}

func TestKeys(t *testing.T) {
	public := ed25519.NewKeyFromSeed(make([]byte, 32)).Public()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	b64 := base64.StdEncoding.EncodeToString(public.(ed25519.PublicKey))
	strong := base64.StdEncoding.EncodeToString(secret)
	for _, test := range []struct {
		name string
		keys []auth.Key
		ok   bool
	}{
		{"PEM", []auth.Key{{ID: "a", Algorithm: auth.EdDSA, Public: pemText}}, true},
		{"base64", []auth.Key{{ID: "a", Algorithm: auth.EdDSA, Public: b64}}, true},
		{"a secret", []auth.Key{{ID: "a", Algorithm: auth.HS256, Secret: strong}}, true},
		{"none", nil, false},
		{"no id", []auth.Key{{Algorithm: auth.EdDSA, Public: b64}}, false},
		{"one id twice", []auth.Key{{ID: "a", Algorithm: auth.EdDSA, Public: b64}, {ID: "a", Algorithm: auth.EdDSA, Public: b64}}, false},
		{"an unknown algorithm", []auth.Key{{ID: "a", Algorithm: "none"}}, false},
		{"a private part", []auth.Key{{ID: "a", Algorithm: auth.EdDSA, Public: b64, Secret: strong}}, false},
		{"a short public key", []auth.Key{{ID: "a", Algorithm: auth.EdDSA, Public: "AAAA"}}, false},
		{"a short secret", []auth.Key{{ID: "a", Algorithm: auth.HS256, Secret: "AAAA"}}, false},
		{"a public part of a secret", []auth.Key{{ID: "a", Algorithm: auth.HS256, Public: b64, Secret: strong}}, false},
	} {
		_, err := auth.NewVerifier(auth.Config{Keys: test.keys})
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && strings.Contains(err.Error(), strong) {
			t.Errorf("%s: the error tells the secret", test.name)
		}
	}
	if s := (auth.Key{ID: "a", Algorithm: auth.HS256, Secret: strong}).String(); strings.Contains(s, strong) {
		t.Error("a key shows its secret")
	}
}

func FuzzVerify(f *testing.F) {
	issuer, err := issue.New("k", make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	other, err := issue.New("k", nil)
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := auth.NewVerifier(auth.Config{Keys: []auth.Key{issuer.Key()}})
	if err != nil {
		f.Fatal(err)
	}
	token, err := other.Token("ann", time.Now().Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := verifier.Verify(token); err == nil {
			t.Fatal("accepted: ", token)
		} else if code := im.CodeOf(err); code != im.CodeBadToken && code != im.CodeTokenExpired {
			t.Fatal(err)
		}
	})
}
