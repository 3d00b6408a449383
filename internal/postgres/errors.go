package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Error is a database that cannot be used. Its text is one line: where, what, and what to do.
type Error struct {
	Addr      string // host:port/database
	Problem   string
	Remedy    string // empty where none is known
	Temporary bool   // waiting may help; otherwise somebody must act
	Err       error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("postgres at %s: %s", e.Addr, e.Problem)
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Explain says for people what an error of this package means and what to do about it, a line each. lasting means that
// waiting does not help. Where it was says Error.Addr.
func Explain(err error) (problem, remedy string, lasting bool) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e, _ = errors.AsType[*Error](explain("", "connect", err))
	}
	return e.Problem, cmp.Or(e.Remedy, "see that PostgreSQL runs, its log, and timelines.urls"), !e.Temporary
}

// SQLSTATEs, as PostgreSQL's manual lists them in its appendix A.
const (
	stateDeadlock         = "40P01"
	stateSerialization    = "40001"
	stateWrongPassword    = "28P01"
	stateNoAuthorization  = "28000"
	stateNoDatabase       = "3D000"
	stateTooManyConns     = "53300"
	stateStarting         = "57P03"
	stateNoPrivilege      = "42501"
	stateNoTable          = "42P01"
	stateTableExists      = "42P07"
	stateUniqueViolation  = "23505"
	stateCheckViolation   = "23514"
	stateNotPartitioned   = "42809" // wrong_object_type
	stateOverlap          = "42P17" // invalid_object_definition
	stateReadOnly         = "25006"
	stateLockNotAvailable = "55P03"
	stateDiskFull         = "53100"
)

func state(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// conflicted tells whether PostgreSQL chose a transaction to lose a conflict: run again whole, it can succeed.
func conflicted(err error) bool {
	s := state(err)
	return s == stateDeadlock || s == stateSerialization
}

// explain says of an error at a database what to do about it, where that is known; otherwise only where it was.
func explain(addr, what string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	e := &Error{Addr: addr, Err: err}
	var dns *net.DNSError
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	switch s := state(err); {
	case s == stateWrongPassword, s == stateNoAuthorization:
		e.Problem, e.Remedy = "it does not let us in ("+serverSays(err)+")", "correct user and password in timelines.urls or timelines.password, or the server's pg_hba.conf"
	case s == stateNoDatabase:
		e.Problem, e.Remedy = "the database does not exist", "create it (CREATE DATABASE), or correct timelines.urls"
	case s == stateTooManyConns:
		e.Problem, e.Remedy, e.Temporary = "it has no connection left", "raise its max_connections, or lower timelines.max_conns", true
	case s == stateStarting:
		e.Problem, e.Remedy, e.Temporary = "it is starting or stopping ("+serverSays(err)+")", "wait, or see its log", true
	case s == stateNoPrivilege:
		e.Problem, e.Remedy = "the user may not do what is needed ("+serverSays(err)+")", "make the user the database's owner"
	case s == stateNoTable:
		e.Problem, e.Remedy = "the schema is not this build's ("+serverSays(err)+")", unmigrated
	case s == stateReadOnly:
		e.Problem, e.Remedy, e.Temporary = "it takes no writes ("+serverSays(err)+")", "name the primary, not a standby, in timelines.urls", true
	case s == stateDiskFull:
		e.Problem, e.Remedy, e.Temporary = "its disk is full", "free space, or detach old months", true
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Problem, e.Remedy, e.Temporary = "connection refused", "start it, or correct timelines.urls", true
	case errors.As(err, &dns):
		e.Problem, e.Remedy, e.Temporary = "the host "+dns.Name+" is not known", "correct timelines.urls, or the name server", true
	case connecting && (errors.Is(err, context.DeadlineExceeded) || isTimeout(err)), what == "ping" && errors.Is(err, context.DeadlineExceeded):
		e.Problem, e.Remedy, e.Temporary = "no answer in time", "see that it runs and that no firewall is between, or correct timelines.urls", true
	case connecting && strings.Contains(err.Error(), "server refused TLS"):
		e.Problem, e.Remedy = "it does not speak TLS", "enable it there, or add sslmode=disable to the URL where the network is trusted"
	case connecting:
		e.Problem, e.Remedy, e.Temporary = "no connection ("+oneLine(innermost(err))+")", "see that it runs, or correct timelines.urls", true
	default:
		e.Problem = what + ": " + oneLine(err.Error())
		e.Temporary = state(err) == "" // the connection broke, or time was up
	}
	return e
}

const unmigrated = `run "antipode migrate"`

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// serverSays is the server's own message.
func serverSays(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return oneLine(e.Message)
	}
	return oneLine(err.Error())
}

// innermost is the text of the last error in the chain: those around it repeat user, database and address.
func innermost(err error) string {
	for {
		switch next := err.(type) { //nolint:errorlint // walks the chain itself
		case interface{ Unwrap() error }:
			inner := next.Unwrap()
			if inner == nil {
				return err.Error()
			}
			err = inner
		case interface{ Unwrap() []error }:
			all := next.Unwrap()
			if len(all) == 0 {
				return err.Error()
			}
			err = all[len(all)-1]
		default:
			return err.Error()
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
