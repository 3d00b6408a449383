package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/internal/config"
)

func newConfigCommand() *cobra.Command {
	var set []string
	cmd := group(&cobra.Command{Use: "config", Short: "Check or print the configuration of a service"})
	cmd.PersistentFlags().StringArrayVar(&set, "set", nil, "key=value, over file and environment; may be repeated")

	var service string
	check := &cobra.Command{
		Use:   "check FILE…",
		Short: "Tell what is wrong with configuration files, by key and file",
		Args:  some,
		RunE: func(cmd *cobra.Command, files []string) error {
			bad := false
			for _, file := range files {
				c, err := loadConfig(file, set)
				if err == nil && service != "" {
					err = config.CheckFor(c, service)
				}
				if err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), err)
					bad = true
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", file)
			}
			if bad {
				return misused(errReported)
			}
			return nil
		},
	}
	check.Flags().StringVar(&service, "service", "", "also check that nothing is missing for this service")

	show := &cobra.Command{
		Use:   "print [FILE]",
		Short: "Print the whole configuration as it holds, defaults included, secrets masked",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			file := os.Getenv("ANTIPODE_CONFIG")
			if len(files) == 1 {
				file = files[0]
			}
			if file == "" {
				return misused(errors.New("config print: name a file, or set ANTIPODE_CONFIG"))
			}
			c, err := loadConfig(file, set)
			if err != nil {
				return misused(err)
			}
			return config.Print(cmd.OutOrStdout(), c)
		},
	}
	cmd.AddCommand(check, show)
	return cmd
}

func loadConfig(file string, set []string) (*config.Config, error) {
	flags := map[string]string{}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("--set %q: want key=value", s)
		}
		flags[key] = value
	}
	return config.Load(file, os.Environ(), flags)
}
