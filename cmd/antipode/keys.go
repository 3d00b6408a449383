package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newKeysCommand() *cobra.Command {
	var (
		keys  app.TrialKeys
		names []string
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
			var regions []im.Region
			for _, name := range names {
				r, err := im.ParseRegion(name)
				if err != nil {
					return misused(fmt.Errorf("--regions: %w", err))
				}
				regions = append(regions, r)
			}
			if err := keys.Make(regions); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "certificates of %s and the token key are in %s\n", strings.Join(names, ", "), keys.Dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&keys.Dir, "out", "", "folder; made if it is missing")
	cmd.Flags().StringSliceVar(&names, "regions", nil, "regions whose services get certificates")
	cmd.MarkFlagRequired("out")
	cmd.MarkFlagRequired("regions")
	return cmd
}

func newTokenCommand() *cobra.Command {
	var (
		keys app.TrialKeys
		as   string
		life time.Duration
	)
	cmd := &cobra.Command{
		Use:   "token --keys FOLDER --as UID",
		Short: "Print a user's token for a trial installation",
		Long:  "Prints a token signed with the key that antipode keys made. In production the login service signs tokens.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			uid, err := im.ParseUID(as)
			if err != nil {
				return misused(fmt.Errorf("--as: %w", err))
			}
			token, err := keys.Token(uid, life)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	cmd.Flags().StringVar(&keys.Dir, "keys", "", "folder that antipode keys made")
	cmd.Flags().StringVar(&as, "as", "", "the user (uid)")
	cmd.Flags().DurationVar(&life, "for", time.Hour, "how long it is good")
	cmd.MarkFlagRequired("keys")
	cmd.MarkFlagRequired("as")
	return cmd
}
