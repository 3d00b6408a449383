package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/antipode-im/antipode/internal/app"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{errors.New("whatever"), 1},
		{errReported, 1},
		{&app.ConfigError{Err: errors.New("bad")}, 2},
		{fmt.Errorf("run: %w", &app.BackendError{Backend: "kafka"}), 3},
	} {
		if got := exitCode(c.err); got != c.code {
			t.Errorf("%v ends with %d, want %d", c.err, got, c.code)
		}
	}
}

// What of a command line cannot be is shown as it is to be written, and ends with the code that says so.
func TestMisusedCommands(t *testing.T) {
	for line, says := range map[string]string{
		"region lose":           "antipode region lose REGION",
		"region drain eu us":    "2 given, want 1: antipode region drain REGION",
		"cluster cut eu":        "1 given, want 2: antipode cluster cut FROM TO",
		"cluster kill":          "antipode cluster kill PART…",
		"config check":          "antipode config check FILE…",
		"verify --from eu":      `"to"`,
		"link repair --from eu": `"to"`,

		"regoin":                         "did you mean antipode region?",
		"region nosuch":                  `unknown command "nosuch": antipode region --help`,
		"dev --nosuch":                   "unknown flag: --nosuch; antipode dev --help lists",
		"dev --region eu":                "unknown flag: --region; did you mean --regions?",
		"cluster ps --flie x":            "unknown flag: --flie; did you mean --file?",
		"verify --form eu":               "unknown flag: --form; did you mean --from?",
		"dev --delay x":                  `invalid argument "x" for "--delay"`,
		"dev --regions a_":               `--regions: region "a_"`,
		"region lose A":                  `region "A"`,
		"verify --from eu --to eu":       "--from and --to are both eu",
		"chat --as ann":                  "Say one of --to UID",
		"gameday nosuch":                 `no scenario "nosuch"`,
		"cluster up --set kafka":         `--set "kafka": want key=value`,
		"cluster up --set kafka.broker=": "did you mean kafka.brokers?",
		"cluster delay eu us fast":       `delay "fast": want a duration`,
		"config check /nowhere.yaml":     "reported",
	} {
		cmd := newRootCommand()
		cmd.SetArgs(strings.Fields(line))
		cmd.SetErr(io.Discard)
		if err := execute(t.Context(), cmd); err == nil || !strings.Contains(err.Error(), says) || exitCode(err) != exitTold {
			t.Errorf("%s: %v, want %q and exit code %d", line, err, says, exitTold)
		}
	}
}

// A command that only has commands tells which.
func TestGroupsTellTheirCommands(t *testing.T) {
	for _, line := range []string{"", "bench", "cluster", "config", "link", "region"} {
		cmd := newRootCommand()
		cmd.SetArgs(strings.Fields(line))
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := execute(t.Context(), cmd); err != nil || !strings.Contains(out.String(), "Available Commands:") {
			t.Errorf("antipode %s: %v:\n%s", line, err, out.String())
		}
	}
}

// TestServiceCommands: each service and migrate read file, variable and flag, and say what of it cannot be.
func TestServiceCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "eu.yaml")
	if err := os.WriteFile(file, []byte("region: eu\nlisten: \":1\"\nrpc: \":2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ANTIPODE_ADMIN", ":3")
	run := func(args ...string) error {
		cmd := newRootCommand()
		cmd.SetArgs(args)
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		return cmd.ExecuteContext(t.Context())
	}
	for _, name := range []string{app.ServiceIPConf, app.ServiceGateway, app.ServiceRouter, app.ServiceIMServer, app.ServiceReplicator, "migrate"} {
		err := run(name, "--config", file, "--set", "listen=:3")
		if err == nil || exitCode(err) != exitTold || !strings.Contains(err.Error(), ":3 is the address of listen too") {
			t.Errorf("%s: %v", name, err)
		}
		if err := run(name, "--config", "/nowhere.yaml"); err == nil || exitCode(err) != exitTold {
			t.Errorf("%s without its file: %v", name, err)
		}
		if err := run(name, "eu.yaml"); err == nil {
			t.Errorf("%s takes an argument", name)
		}
	}
}

// Without a file all keys are printed, with their defaults, which --set changes.
func TestConfigPrintShowsDefaults(t *testing.T) {
	t.Setenv("ANTIPODE_CONFIG", "")
	os.Unsetenv("ANTIPODE_CONFIG") // as before, once the test is over
	cmd := newRootCommand()
	cmd.SetArgs([]string{"config", "print", "--set", "imserver.rate=7"})
	var out bytes.Buffer
	cmd.SetOut(&out)
	if err := execute(t.Context(), cmd); err != nil || !strings.Contains(out.String(), "rate: 7.0\n") || !strings.Contains(out.String(), "join_lag: 10s\n") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}
