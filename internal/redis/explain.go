package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	redis "github.com/redis/go-redis/v9"
)

// oldest is the major version that the scripts and users need: Redis 6 brought users, and what scripts do is replicated as
// effects.
const oldest = 6

// VersionError says that the server is too old.
type VersionError struct{ Has string }

// Error tells both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("it is Redis %s: version %d or later is needed", e.Has, oldest)
}

// Check tells whether a server answers, takes the password and is not too old.
func Check(ctx context.Context, client redis.UniversalClient) error {
	info, err := client.Info(ctx).Result() // all sections: the embedded server refuses to be asked for this one
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	for l := range strings.Lines(info) {
		version, ok := strings.CutPrefix(strings.TrimSpace(l), "redis_version:")
		if !ok {
			continue
		}
		major, _, _ := strings.Cut(version, ".")
		if n, err := strconv.Atoi(major); err == nil && n < oldest {
			return &VersionError{version}
		}
	}
	return nil
}

// Explain says for people what an error of this package means and what to do about it, a line each. lasting means that
// waiting does not help.
func Explain(err error) (problem, remedy string, lasting bool) {
	var (
		version *VersionError
		timed   net.Error
		name    *net.DNSError
		text    = err.Error()
	)
	has := func(word string) bool { return strings.Contains(text, word) }
	switch {
	case errors.As(err, &version):
		return version.Error(), "use a newer Redis", true
	case has("WRONGPASS"), has("invalid password"), has("invalid username-password"):
		return "the user's name or password is refused", "correct routes.user and routes.password or routes.password_file", true
	case has("NOAUTH"), has("AUTH <password> called without"):
		return "it wants a password, or none, and is told otherwise", "correct routes.password or routes.password_file", true
	case has("NOPERM"):
		return "the user may not do this: " + line(text), "give routes.user the rights that docs/operations.md lists for it", true
	case has("LOADING"):
		return "it is loading its data", "wait until it has started", false
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "start Redis, or correct routes.addrs", false
	case errors.As(err, &name):
		return "no such host: " + name.Name, "correct routes.addrs", false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return "no answer in time", "check that Redis runs and routes.addrs is reachable", false
	}
	return line(text), "check that Redis runs, routes.addrs and routes.tls", false
}

// line makes one line of a text.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }
