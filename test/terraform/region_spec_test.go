// Package terraform checks that what the Terraform modules write is what the services read. It needs terraform on the
// PATH; `make test-infra` runs it.
package terraform

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/config"
)

// TestRegionSpecIsAccepted applies the example of three regions and loads each file it says, as a service would.
func TestRegionSpecIsAccepted(t *testing.T) {
	terraform, err := exec.LookPath("terraform")
	if err != nil {
		t.Fatal("terraform is not on the PATH: install Terraform 1.9 or later, or leave ./test/terraform out")
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "region-spec"), os.DirFS("../../terraform/modules/region-spec")); err != nil {
		t.Fatal(err)
	}
	example := filepath.Join(dir, "region-spec", "examples", "three-regions")
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command(terraform, args...)
		cmd.Dir = example
		cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+filepath.Join(dir, "none.tfrc"), "CHECKPOINT_DISABLE=1")
		out, err := cmd.Output()
		if err != nil {
			exit := &exec.ExitError{}
			if errors.As(err, &exit) {
				t.Fatalf("terraform %v: %v\n%s%s", args, err, out, exit.Stderr)
			}
			t.Fatal(err)
		}
		return out
	}
	if err := os.WriteFile(filepath.Join(dir, "none.tfrc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run("init", "-backend=false", "-input=false")
	// The secrets lie on instances; here stand-ins do.
	secrets := t.TempDir()
	authority, err := certs.Open(filepath.Join(secrets, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authority.Identity("gateway", "eu"); err != nil { // whose it is, is looked at by a start
		t.Fatal(err)
	}
	for file, as := range map[string]string{".pem": "cert.pem", "-key.pem": "key.pem"} {
		if err := os.Rename(filepath.Join(secrets, "tls", certs.Name("gateway", "eu")+file), filepath.Join(secrets, "tls", as)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"postgres-password": "secret",
		"auth-2026-11.pem":  "GUKpGDiIYuxqxjvQ3ZWCTYYhlXx2xUGgWzE4mGWJyXI=",
	} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("apply", "-auto-approve", "-input=false", "-var", "secrets_dir="+secrets)
	var output struct {
		Configs struct {
			Value map[string]map[string]string `json:"value"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(run("output", "-json"), &output); err != nil {
		t.Fatal(err)
	}
	if len(output.Configs.Value) != 3 {
		t.Fatalf("want the files of three regions, got %d", len(output.Configs.Value))
	}

	for region, files := range output.Configs.Value {
		for service, text := range files {
			t.Run(region+"/"+service, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), service+".yaml")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				c, err := config.Load(file, nil, nil)
				if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				if err := config.CheckFor(c, service); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				if _, err := app.SiteOf(c); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}
