package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

const (
	// oldestPostgres is the oldest major version that the timelines' SQL is tested on.
	oldestPostgres = 14
	// kafkaVersion is the one that tools/kafka/pom.xml names.
	kafkaVersion = "3.9.1"
	// versionLimit bounds the wait for a program to tell its version.
	versionLimit = 10 * time.Second
)

// ErrMissing is what a program that is nowhere on this machine answers. The error around it names what to do.
var ErrMissing = errors.New("not found on this machine")

// fetched returns the folder that tools/deps (make deps) keeps what it fetched in.
func fetched() (string, error) {
	if dir := os.Getenv("ANTIPODE_DEPS"); dir != "" {
		return dir, nil
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no cache folder: %w", err)
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "antipode", "deps"), nil
}

// FindConsul returns the program consul: the one on PATH, else the one that make deps built.
func FindConsul() (string, error) {
	if path, err := exec.LookPath("consul"); err == nil {
		return filepath.Abs(path)
	}
	dir, err := fetched()
	if err != nil {
		return "", fmt.Errorf("consul: %w", err)
	}
	path := filepath.Join(dir, "consul")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("consul: %w: no consul on PATH nor in %s: make deps builds it", ErrMissing, dir)
	}
	return path, nil
}

// FindRedis returns the program redis-server, which must be on PATH.
func FindRedis() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("redis: %w: no redis-server on PATH: install Redis 6.2 or newer (Debian: redis-server)", ErrMissing)
	}
	return filepath.Abs(path)
}

// FindKafka returns the program java, of JAVA_HOME or on PATH, and the folder of the jars that make deps fetched.
func FindKafka() (java, jars string, err error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
		if _, err := os.Stat(java); err != nil {
			return "", "", fmt.Errorf("kafka: JAVA_HOME is %s but holds no bin/java: correct it, or unset it to use java on PATH", home)
		}
	} else if java, err = exec.LookPath("java"); err != nil {
		return "", "", fmt.Errorf("kafka: %w: no java on PATH: install Java 17 or newer (Debian: default-jre-headless)", ErrMissing)
	}
	dir, err := fetched()
	if err != nil {
		return "", "", fmt.Errorf("kafka: %w", err)
	}
	jars = filepath.Join(dir, "kafka-"+kafkaVersion)
	if _, err := os.Stat(jars); err != nil {
		return "", "", fmt.Errorf("kafka: %w: no jars of Kafka %s in %s: make deps fetches them", ErrMissing, kafkaVersion, dir)
	}
	return java, jars, nil
}

// FindMirror returns the folder of the jars of MirrorMaker 2 that tools/deps mirror fetched.
func FindMirror() (jars string, err error) {
	dir, err := fetched()
	if err != nil {
		return "", fmt.Errorf("mirrormaker: %w", err)
	}
	jars = filepath.Join(dir, "mirror-"+kafkaVersion)
	if _, err := os.Stat(jars); err != nil {
		return "", fmt.Errorf("mirrormaker: %w: no jars of MirrorMaker %s in %s: tools/deps mirror fetches them", ErrMissing, kafkaVersion, dir)
	}
	return jars, nil
}

// FindPostgres returns the folder of the programs postgres and initdb: the one on PATH, else the newest where systems
// install it.
func FindPostgres(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			if bin := filepath.Dir(path); UsablePostgres(ctx, bin) == nil {
				return bin, nil
			}
		}
	}
	newest, version := "", oldestPostgres-1
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", // Debian, Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		matches, _ := filepath.Glob(pattern)
		for _, bin := range matches {
			if major, err := postgresMajor(ctx, bin); err == nil && major > version && UsablePostgres(ctx, bin) == nil {
				newest, version = bin, major
			}
		}
	}
	if newest == "" {
		return "", fmt.Errorf("postgres: %w: no postgres on PATH nor in /usr/lib/postgresql: install PostgreSQL %d or newer (Debian: postgresql)", ErrMissing, oldestPostgres)
	}
	return newest, nil
}

// UsablePostgres tells why the programs in a folder do not do.
func UsablePostgres(ctx context.Context, bin string) error {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return fmt.Errorf("postgres: no initdb in %s", bin)
	}
	major, err := postgresMajor(ctx, bin)
	if err != nil {
		return err
	}
	if major < oldestPostgres {
		return fmt.Errorf("postgres: %s is version %d: install PostgreSQL %d or newer", bin, major, oldestPostgres)
	}
	return nil
}

func postgresMajor(ctx context.Context, bin string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
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
