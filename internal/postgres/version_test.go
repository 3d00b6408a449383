package postgres

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// fakeServer lets everybody in and answers every statement with one text.
func fakeServer(t *testing.T, answer string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = speak(pgproto3.NewBackend(conn, conn), answer) // it ends when the client hangs up
			}()
		}
	}()
	return "postgres://antipode@" + l.Addr().String() + "/antipode?sslmode=disable"
}

func speak(b *pgproto3.Backend, answer string) error {
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := b.Flush(); err != nil {
		return err
	}
	column := pgproto3.FieldDescription{Name: []byte("version"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1}
	for {
		m, err := b.Receive()
		if err != nil {
			return err
		}
		switch m.(type) {
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{})
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{column}})
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(answer)}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if err := b.Flush(); err != nil {
				return err
			}
		case *pgproto3.Terminate:
			return nil
		}
	}
}

// TestOldServersAreRefused: by their version, before anything is asked of them; what only speaks the protocol is not.
func TestOldServersAreRefused(t *testing.T) {
	for version, old := range map[string]bool{
		"PostgreSQL 13.14 (Debian 13.14-0+deb11u1) on x86_64-pc-linux-gnu": true,
		"PostgreSQL 9.6.24": true,
		"PostgreSQL 14.0":   false,
		"PostgreSQL 18beta1 on aarch64-unknown-linux-gnu": false,
		"CockroachDB CCL v23.1.11":                        false,
	} {
		url := fakeServer(t, version)
		store, err := Open(t.Context(), Config{URLs: []string{url}, Partitions: 1}, nil)
		if err == nil {
			store.Close()
			t.Fatalf("%s: it has no schema, and is taken", version)
		}
		e, ok := errors.AsType[*Error](err)
		refused := ok && !e.Temporary && strings.Contains(e.Problem, "too old") && strings.Contains(e.Remedy, "upgrade it to 14 or newer")
		if refused != old {
			t.Errorf("%s: %v", version, err)
		}
	}
}
