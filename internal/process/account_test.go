package process

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// TestOrdinary: root's servers run as somebody else, who can pass through closed folders and own what they are given;
// anybody else's run as themselves.
func TestOrdinary(t *testing.T) {
	a, err := Ordinary("no-such-user-here", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	wanted := "nobody"
	if os.Geteuid() != 0 {
		self, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		wanted = self.Username
	}
	closed := filepath.Join(t.TempDir(), "closed")
	own := filepath.Join(closed, "own")
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.Own(own); err != nil {
		t.Fatal(err)
	}
	if a.Other() && a.ClosedAbove(own) == "" {
		t.Error("the closed folder is not noticed")
	}
	script := "id -un; echo written > " + own + "/file"
	if a.Other() && !a.Passes() {
		script = "id -un" // a container that grants nothing
	}
	out, err := a.Command(t.Context(), []string{"PATH=" + os.Getenv("PATH")}, "/bin/sh", "-c", script).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != wanted {
		t.Errorf("ran as %q, want %s: %v", out, wanted, err)
	}
}

func TestOrdinaryWithoutUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		return // nobody else is needed
	}
	if _, err := Ordinary("no-such-user-here", "nor-this"); err == nil || !strings.Contains(err.Error(), "no user no-such-user-here or nor-this") {
		t.Errorf("got %v", err)
	}
}
