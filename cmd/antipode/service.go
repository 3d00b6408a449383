package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
)

// The exit codes of all commands. 1 is any other failure.
const (
	exitTold    = 2 // what it was told cannot be: command line, or configuration
	exitBackend = 3 // a backend is missing, or not as it must be
)

// exitCode is the code that the process ends with for an error.
func exitCode(err error) int {
	if _, ok := errors.AsType[*app.ConfigError](err); ok {
		return exitTold
	}
	if _, ok := errors.AsType[*app.BackendError](err); ok {
		return exitBackend
	}
	return 1
}

// configFlags are the flags by which a process is told its configuration.
type configFlags struct {
	file string
	set  []string
}

func (f *configFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", os.Getenv("ANTIPODE_CONFIG"), "configuration file; default: ANTIPODE_CONFIG")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "key=value, over file and environment; may be repeated")
}

func (f *configFlags) load() (*config.Config, error) {
	c, err := loadConfig(f.file, f.set)
	if err != nil {
		return nil, &app.ConfigError{Err: err}
	}
	return c, nil
}

const serviceHelp = `

It is told by one YAML file, ANTIPODE_* variables and --set, in rising precedence (antipode config print shows all keys).
It ends with code 0 when it was told to stop and drained, 2 when the command line or the configuration cannot be, 3 when a backend is missing or
not as it must be (after start_wait, if waiting could help), and 1 for any other failure. The last line on stderr is the
reason; the lines before are logs in JSON.`

// newServiceCommands are the services, a command each.
func newServiceCommands() []*cobra.Command {
	var all []*cobra.Command
	for _, s := range []struct{ name, short string }{
		{app.ServiceIPConf, "Run an ipconf: rank gateways for clients"},
		{app.ServiceGateway, "Run a gateway: hold clients' sockets"},
		{app.ServiceRouter, "Run a router: own routes, find recipients' gateways"},
		{app.ServiceIMServer, "Run an imserver: accept, apply and serve messages"},
		{app.ServiceReplicator, "Run a replicator: ship logs to and from other regions"},
	} {
		var flags configFlags
		cmd := &cobra.Command{
			Use: s.name + " --config FILE", Short: s.short, Long: s.short + "." + serviceHelp, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := flags.load()
				if err != nil {
					return err
				}
				return app.Serve(cmd.Context(), app.Launch{
					Service: s.name, Config: c, File: flags.file, Version: version(), Log: cmd.ErrOrStderr(),
				})
			},
		}
		flags.register(cmd)
		switch s.name {
		case app.ServiceIPConf:
			cmd.AddCommand(newIPConfExplainCommand())
		case app.ServiceRouter:
			cmd.AddCommand(newRouterRoutesCommand())
		}
		all = append(all, cmd)
	}
	return all
}

func newMigrateCommand() *cobra.Command {
	var (
		flags configFlags
		wait  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "migrate --config FILE",
		Short: "Make a region's Kafka and PostgreSQL ready for this build",
		Long: `Makes a region's topics with the settings that the invariants need, names its own log, and brings the schema of its
databases up to this build. What is there stays: it may run again at any time, and beside a running region. A topic that
exists with other settings is an error that says how to change it.

Run it in one place at a time for one region. Exit codes are those of the services.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return app.MigrateConfigured(cmd.Context(), app.Launch{Config: c, File: flags.file, Log: cmd.ErrOrStderr()}, wait,
				func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) })
		},
	}
	flags.register(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for backends that do not answer yet")
	return cmd
}
