package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A folder survives restarts within one boot, however they end, and a clean end outlives the boot; only what another
// boot left marked is removed.
func TestUnsynced(t *testing.T) {
	dir := t.TempDir()
	u := unsynced{data: filepath.Join(dir, "data"), mark: filepath.Join(dir, "unsynced"), boot: filepath.Join(dir, "boot_id")}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begin := func(when string, wantTorn bool) {
		t.Helper()
		torn, err := u.begin()
		if err != nil || torn != wantTorn {
			t.Fatalf("%s: torn %v, %v; want %v", when, torn, err, wantTorn)
		}
	}
	if _, err := u.begin(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("where boots have no names: %v", err)
	}
	write(u.boot, "one")
	begin("at first", false)
	if err := os.Mkdir(u.data, 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(u.data, "table"), "rows")
	begin("after a kill, same boot", false)
	if err := u.end(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(u.boot, "two")
	begin("after a clean end, next boot", false)
	if _, err := os.Stat(filepath.Join(u.data, "table")); err != nil {
		t.Fatalf("a folder that was written whole is gone: %v", err)
	}
	write(u.boot, "three")
	begin("after a crash of the machine", true)
	if _, err := os.Stat(u.data); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a torn folder is still there: %v", err)
	}
	begin("again, nothing is left to remove", false)
}
