//go:build real

package contract_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/wire"
)

// A server that hangs answers nothing, holds its connections open and takes new ones. Every call must end all the same,
// with an error that names the server, and the store must go on by itself when the server does: with what was being
// committed either there or not, and never twice.
func TestPostgresHangs(t *testing.T) {
	cfg := postgres.Config{
		URLs: []string{database(t), database(t)}, Partitions: 2,
		ConnectTimeout: time.Second, StatementTimeout: time.Second, LockTimeout: time.Second,
	}
	if err := postgres.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	timelines, err := postgres.Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer timelines.Close()
	p := im.Partition{Topic: "msg.eu.direct"}
	c := im.Conversation("d:ann:bob")
	for i := 0; wire.Partition(string(c), cfg.Partitions) != p.Number; i++ {
		c = im.Direct("ann", im.UID(fmt.Sprint("bob", i)))
	}
	part := func(from, to int64) []view.Part {
		part := view.Part{Partition: p, From: from, To: view.Position{Position: im.Position{Partition: p, Next: to, Local: to}}}
		for offset := from; offset < to; offset++ {
			part.Records = append(part.Records, view.Record{
				Record: im.Record{
					ID:   im.ID{Conversation: c, Sender: "ann", ClientID: im.NewUUID(time.Now())},
					Kind: im.KindMessage, Version: 1, Place: im.Place{Stamp: im.StampAt(time.Now()), Origin: "eu", Seq: uint64(offset) + 1},
				},
				Offset: offset, Shown: true,
			})
		}
		return []view.Part{part}
	}
	if err := timelines.Apply(t.Context(), part(0, 10)); err != nil {
		t.Fatal(err)
	}

	member := servers.members[servers.postgres]
	if err := member.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := member.Resume(); err != nil {
			t.Error(err)
		}
	})
	hangs := func(what string, err error, took time.Duration) {
		t.Helper()
		e, ok := errors.AsType[*postgres.Error](err)
		if !ok || !e.Temporary || !strings.Contains(err.Error(), servers.postgres.Addr()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v: want one line that names %s, and that waiting may help", what, err, servers.postgres.Addr())
		}
		if took > 5*time.Second {
			t.Errorf("%s took %v", what, took)
		}
	}
	for range 3 { // the first finds a connection, the others must make one
		began := time.Now()
		err := timelines.Apply(t.Context(), part(10, 20))
		hangs("apply", err, servers.env.Since(began))
	}
	for what, ask := range map[string]func() error{
		"positions": func() error { _, err := timelines.Positions(t.Context()); return err },
		"pull": func() error {
			_, err := timelines.Pull(t.Context(), view.PullQuery{UID: "ann", Conversation: c, Limit: 1})
			return err
		},
		"list": func() error {
			_, err := timelines.List(t.Context(), view.ListQuery{UID: "ann", Limit: 1})
			return err
		},
		"open": func() error { _, err := postgres.Open(t.Context(), cfg, nil); return err },
	} {
		began := time.Now()
		err := ask()
		hangs(what, err, servers.env.Since(began))
	}

	if err := member.Resume(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "apply goes on", func() error {
		err := timelines.Apply(t.Context(), part(10, 20))
		if errors.Is(err, view.ErrFenced) { // an answer was lost: it is there
			err = nil
		}
		return err
	})
	t.Logf("applies again %v after the server went on", time.Since(began).Round(time.Millisecond))
	positions, err := timelines.Positions(t.Context())
	if err != nil || len(positions) != 1 || positions[0].Next != 20 {
		t.Fatalf("positions %v, %v", positions, err)
	}
	facts, err := timelines.Known(t.Context(), view.Ask{Heads: []view.HeadKey{{Conversation: c, Origin: "eu"}}, Partitions: []im.Partition{p}})
	if err != nil || facts.Next[p] != 20 || facts.Heads[view.HeadKey{Conversation: c, Origin: "eu"}] != 20 {
		t.Fatalf("%+v, %v", facts, err)
	}
}
