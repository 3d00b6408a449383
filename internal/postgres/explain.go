package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SchemaError says that a database's schema is not the one of this build.
type SchemaError struct {
	Has, Want int64
}

// Error tells both versions and what to do.
func (e *SchemaError) Error() string {
	problem, remedy := e.explain()
	return "postgres: " + problem + ": " + remedy
}

func (e *SchemaError) explain() (problem, remedy string) {
	switch {
	case e.Has == 0:
		return "the database holds no schema", "run: antipode migrate"
	case e.Has < e.Want:
		return fmt.Sprintf("the schema has version %d and this build needs %d", e.Has, e.Want), "run: antipode migrate"
	}
	return fmt.Sprintf("the schema has version %d, newer than this build's %d", e.Has, e.Want), "use a newer build"
}

// Explain says for people what an error of this package means and what to do about it, a line each. lasting means that
// waiting does not help.
func Explain(err error) (problem, remedy string, lasting bool) {
	var (
		schema *SchemaError
		server *pgconn.PgError
		timed  net.Error
		name   *net.DNSError
	)
	switch {
	case errors.As(err, &schema):
		problem, remedy = schema.explain()
		return problem, remedy, true
	case errors.As(err, &server):
		switch server.Code {
		case "28P01": // invalid_password
			return line(server.Message), "correct timelines.password or timelines.password_file", true
		case "28000": // invalid_authorization_specification
			return line(server.Message), "correct the user in timelines.urls, or what pg_hba.conf lets it do", true
		case "3D000": // invalid_catalog_name
			return line(server.Message), "create the database, or correct timelines.urls", true
		case "42501": // insufficient_privilege
			return line(server.Message), "grant it to the user of timelines.urls", true
		case "57P03": // cannot_connect_now
			return line(server.Message), "wait until it has started", false
		case "53300": // too_many_connections
			return line(server.Message), "raise its max_connections, or lower timelines.max_conns", false
		}
		return line(server.Message) + " (" + server.Code + ")", "check the server's log", false
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "start PostgreSQL, or correct timelines.urls", false
	case errors.As(err, &name):
		return "no such host: " + name.Name, "correct timelines.urls", false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return "no answer in time", "check that PostgreSQL runs and timelines.urls is reachable", false
	}
	return line(err.Error()), "check that PostgreSQL runs and timelines.urls", false
}

// Answers tells whether a database can be connected to, whatever it holds.
func Answers(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fail("connect", err)
	}
	return conn.Close(ctx)
}

// line makes one line of a text.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }
