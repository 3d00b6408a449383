// Command antipode is every service of Antipode and its tools in one binary, one subcommand each.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := execute(ctx, newRootCommand()); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(os.Stderr, "antipode:", err)
		}
		os.Exit(exitCode(err))
	}
}

// execute runs the command that the arguments name. What fails before it begins is what the command line says.
func execute(ctx context.Context, root *cobra.Command) error {
	begun := false
	var mark func(*cobra.Command)
	mark = func(cmd *cobra.Command) {
		if run := cmd.RunE; run != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				begun = true
				return run(cmd, args)
			}
		}
		for _, c := range cmd.Commands() {
			mark(c)
		}
	}
	mark(root)
	err := root.ExecuteContext(ctx)
	if err != nil && !begun {
		return misused(err)
	}
	return err
}

// misused says that a flag or an argument cannot be.
func misused(err error) error { return &app.ConfigError{Err: err} }

// group is a command that only has commands; by itself it tells which.
func group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return fmt.Errorf("unknown command %q: did you mean %s %s?", args[0], cmd.CommandPath(), near[0])
		}
		return fmt.Errorf("unknown command %q: %s --help lists those that there are", args[0], cmd.CommandPath())
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(commands...)
	return cmd
}

// errReported ends a command with exit code 1 whose reason was printed already.
var errReported = errors.New("reported")

func newRootCommand() *cobra.Command {
	root := group(&cobra.Command{
		Use:           "antipode",
		Short:         "Instant messaging in several regions at once, all of them active",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	})
	root.SetFlagErrorFunc(suggestFlag)
	root.AddCommand(newDevCommand(), newChatCommand(), newDemoCommand(), newGamedayCommand(), newBenchCommand(), newConfigCommand(),
		newKeysCommand(), newTokenCommand(), newMigrateCommand(), newClusterCommand(), newVerifyCommand(), newLinkCommand(), newRegionCommand())
	root.AddCommand(newServiceCommands()...)
	return root
}

// suggestFlag names the flag that an unknown one was probably meant to be.
func suggestFlag(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
	near := config.Nearest("--"+unknown.GetSpecifiedName(), known)
	if near == "" {
		near = fmt.Sprintf("; %s --help lists those that there are", cmd.CommandPath())
	}
	return fmt.Errorf("%w%s", err, near)
}

// exactly wants n arguments, and shows which.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return fmt.Errorf("arguments: %d given, want %d: %s", len(args), n, cmd.UseLine())
	}
}

// some wants an argument or more, and shows which.
func some(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("arguments: none given, want 1 or more: %s", cmd.UseLine())
	}
	return nil
}

// version is the module's version, or the commit that the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}
