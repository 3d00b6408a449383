package main

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

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/certs"
)

// The files of a trial installation's token key.
const (
	tokenSeedFile   = "token-seed"    // base64 of 32 bytes; whoever reads it can be any user
	tokenPublicFile = "token-key.pub" // base64; gateways verify with it
	tokenKeyID      = "trial"         // of auth.keys
	maxTokenLife    = 24 * time.Hour  // a trial's token is not for keeps
)

func newKeysCommand() *cobra.Command {
	var (
		out     string
		regions []string
	)
	cmd := &cobra.Command{
		Use:   "keys --out FOLDER --regions eu,us",
		Short: "Make the certificates and the token key of a trial installation",
		Long: `Makes, in a folder, what a trial installation needs so that its parts trust each other: a certificate authority, a
certificate for each service of each region, and a key that signs users' tokens (antipode token). What is there stays.

Production brings certificates of its own authority, with the same names (<service>.<region>.antipode), and tokens of
its own login service.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			authority, err := certs.Open(out)
			if err != nil {
				return err
			}
			for _, name := range regions {
				region, err := im.ParseRegion(name)
				if err != nil {
					return fmt.Errorf("--regions: %w", err)
				}
				for _, service := range []string{app.ServiceIPConf, app.ServiceGateway, app.ServiceRouter, app.ServiceIMServer, app.ServiceReplicator} {
					if _, err := authority.Identity(service, region); err != nil {
						return err
					}
				}
			}
			if err := makeTokenKey(out); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "certificates of %s and the token key are in %s\n", strings.Join(regions, ", "), out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "folder; made if it is missing")
	cmd.Flags().StringSliceVar(&regions, "regions", nil, "regions whose services get certificates")
	cmd.MarkFlagRequired("out")     //nolint:errcheck // the flag exists
	cmd.MarkFlagRequired("regions") //nolint:errcheck // the flag exists
	return cmd
}

func makeTokenKey(dir string) error {
	seed, err := readSeed(filepath.Join(dir, tokenSeedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if seed == nil {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		text := base64.StdEncoding.EncodeToString(seed) + "\n"
		if err := os.WriteFile(filepath.Join(dir, tokenSeedFile), []byte(text), 0o600); err != nil {
			return fmt.Errorf("token key: %w", err)
		}
	}
	issuer, err := issue.New(tokenKeyID, seed)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, tokenPublicFile), []byte(issuer.Key().Public+"\n"), 0o644); err != nil {
		return fmt.Errorf("token key: %w", err)
	}
	return nil
}

func readSeed(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("token key: %s is not base64: %w", path, err)
	}
	return seed, nil
}

func newTokenCommand() *cobra.Command {
	var (
		keys, as string
		life     time.Duration
	)
	cmd := &cobra.Command{
		Use:   "token --keys FOLDER --as UID",
		Short: "Print a user's token for a trial installation",
		Long:  "Prints a token signed with the key that antipode keys made. In production the login service signs tokens.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			uid, err := im.ParseUID(as)
			if err != nil {
				return fmt.Errorf("--as: %w", err)
			}
			if life <= 0 || life > maxTokenLife {
				return fmt.Errorf("--for %v: want up to %v", life, maxTokenLife)
			}
			seed, err := readSeed(filepath.Join(keys, tokenSeedFile))
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: make it with: antipode keys --out %s", err, keys)
			}
			if err != nil {
				return err
			}
			issuer, err := issue.New(tokenKeyID, seed)
			if err != nil {
				return err
			}
			token, err := issuer.Token(uid, time.Now().Add(life))
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	cmd.Flags().StringVar(&keys, "keys", "", "folder that antipode keys made")
	cmd.Flags().StringVar(&as, "as", "", "the user (uid)")
	cmd.Flags().DurationVar(&life, "for", time.Hour, "how long it is good")
	cmd.MarkFlagRequired("keys") //nolint:errcheck // the flag exists
	cmd.MarkFlagRequired("as")   //nolint:errcheck // the flag exists
	return cmd
}
