package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
)

// TrialKeys is a folder with what the parts of a trial installation need to trust each other: a certificate authority, a
// certificate for each service of each region, and the key that signs users' tokens. Production brings certificates of its
// own authority, with the same names, and tokens of its own login service.
type TrialKeys struct{ Dir string }

// The token key's files: base64, of the seed of an Ed25519 key and of its public part.
const (
	trialSeed   = "token-seed" // whoever reads it can be any user
	trialPublic = "token-key.pub"
)

// TrialKeyID is the id of the trial's token key, for auth.keys.
const TrialKeyID = "trial"

// TrialTokenLife bounds how long a trial's token is good.
const TrialTokenLife = 24 * time.Hour

// Make makes what is missing.
func (k TrialKeys) Make(regions []im.Region) error {
	authority, err := certs.Open(k.Dir)
	if err != nil {
		return err
	}
	for _, r := range regions {
		for _, service := range []string{ServiceIPConf, ServiceGateway, ServiceRouter, ServiceIMServer, ServiceReplicator} {
			if _, err := authority.Identity(service, r); err != nil {
				return err
			}
		}
	}
	if _, err := os.Stat(k.path(trialSeed)); errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		if err := os.WriteFile(k.path(trialSeed), []byte(base64.StdEncoding.EncodeToString(seed)+"\n"), 0o600); err != nil {
			return fmt.Errorf("token key: %w", err)
		}
	}
	issuer, err := k.issuer()
	if err != nil {
		return err
	}
	if err := os.WriteFile(k.path(trialPublic), []byte(issuer.Key().Public+"\n"), 0o644); err != nil {
		return fmt.Errorf("token key: %w", err)
	}
	return nil
}

// Token returns a user's token, good for as long as said.
func (k TrialKeys) Token(uid im.UID, life time.Duration) (string, error) {
	if life <= 0 || life > TrialTokenLife {
		return "", fmt.Errorf("a token for %v: want up to %v", life, TrialTokenLife)
	}
	issuer, err := k.issuer()
	if err != nil {
		return "", err
	}
	return issuer.Token(uid, time.Now().Add(life))
}

func (k TrialKeys) issuer() (*issue.Issuer, error) {
	text, err := os.ReadFile(k.path(trialSeed))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("token key: %s is missing: make it with: antipode keys --out %s --regions …", k.path(trialSeed), k.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("token key: %s is not base64: %w", k.path(trialSeed), err)
	}
	return issue.New(TrialKeyID, seed)
}

func (k TrialKeys) path(name string) string { return filepath.Join(k.Dir, name) }
