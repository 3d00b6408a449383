package main

import (
	"fmt"
	"os"
	"slices"
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
		Long: `Print the whole configuration as it holds, defaults included, secrets masked.

The file is that of ANTIPODE_CONFIG if none is named. Where there is neither, nor any other ANTIPODE_* variable, the defaults are
printed: all keys there are.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			file := os.Getenv("ANTIPODE_CONFIG")
			if len(files) == 1 {
				file = files[0]
			}
			c, err := loadConfig(file, set)
			if file == "" && !slices.ContainsFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, config.EnvPrefix) }) {
				c, err = defaults(set)
			}
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
	flags, err := setFlags(set)
	if err != nil {
		return nil, err
	}
	return config.Load(file, os.Environ(), flags)
}

// defaults is a configuration of which only --set says anything. Nothing could run by it.
func defaults(set []string) (*config.Config, error) {
	flags, err := setFlags(set)
	if err != nil {
		return nil, err
	}
	c := config.Defaults()
	return c, config.Set(c, flags)
}

func setFlags(set []string) (map[string]string, error) {
	flags := map[string]string{}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("--set %q: want key=value", s)
		}
		flags[key] = value
	}
	return flags, nil
}
