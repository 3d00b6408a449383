package rpc

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/wire"
)

// giving gives snapshots of so many chunks; one that is cut short has no last one.
type giving struct {
	chunks int
	short  bool
	asked  *wire.SnapshotRequest
}

func (g *giving) SnapshotCut(_ context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	if r.Partitions == 0 {
		return nil, im.Errorf(im.CodeBadRequest, "no partitions")
	}
	return &wire.SnapshotCutResponse{Positions: []*wire.SnapshotPosition{{Topic: "msg.eu.direct", Partition: 3, Next: 42}}}, nil
}

func (g *giving) Snapshot(_ context.Context, r *wire.SnapshotRequest, send func(*wire.SnapshotChunk) error) error {
	g.asked = r
	for n := range g.chunks {
		c := &wire.SnapshotChunk{After: []byte{byte(n)}, Last: n == g.chunks-1 && !g.short}
		if err := send(c); err != nil {
			return err
		}
	}
	return nil
}

func TestSnapshot(t *testing.T) {
	a := &answering{giving: giving{chunks: 3}}
	v := NewView(wired(t, a))
	cut, err := v.SnapshotCut(t.Context(), &wire.SnapshotCutRequest{Partitions: 4})
	if err != nil || len(cut.Positions) != 1 || cut.Positions[0].Next != 42 {
		t.Fatalf("%v, %v", cut, err)
	}
	n := 0
	count := func(*wire.SnapshotChunk) error { n++; return nil }
	if err := v.Snapshot(t.Context(), &wire.SnapshotRequest{After: []byte("x")}, count); err != nil || n != 3 || string(a.asked.After) != "x" {
		t.Errorf("%d chunks, %v", n, err)
	}
	full := errors.New("full")
	if err := v.Snapshot(t.Context(), &wire.SnapshotRequest{}, func(*wire.SnapshotChunk) error { return full }); !errors.Is(err, full) {
		t.Errorf("what is wrong with the one who takes: %v", err)
	}
	a.short = true
	if err := v.Snapshot(t.Context(), &wire.SnapshotRequest{}, count); im.CodeOf(err) != im.CodeUnavailable || !strings.Contains(err.Error(), "before its last chunk") {
		t.Errorf("a snapshot without its end was taken for a whole one: %v", err)
	}
}

// Replicators of other regions take snapshots, and no other service.
func TestSnapshotAccess(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := replicatorServerOf(t, ca, &fakeReplicator{giving: giving{chunks: 2}})
	for service, code := range map[string]im.Code{"replicator": "", "imserver": im.CodeBadToken} {
		id, err := ca.Identity(service, "us")
		if err != nil {
			t.Fatal(err)
		}
		links := NewLinks(func(im.Region) (LinkTarget, error) {
			return LinkTarget{Addr: s.Addr(), TLS: id.Client("replicator", "eu")}, nil
		})
		conn, err := links.Dial("eu")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := NewCopies(conn, "eu")
		n := 0
		err = c.Snapshot(t.Context(), &wire.SnapshotRequest{}, func(*wire.SnapshotChunk) error { n++; return nil })
		if im.CodeOf(err) != code || (n == 2) != (code == "") {
			t.Errorf("%s of another region: %d chunks, %v", service, n, err)
		}
		if _, err := c.SnapshotCut(t.Context(), &wire.SnapshotCutRequest{Partitions: 4}); im.CodeOf(err) != code {
			t.Errorf("%s of another region: %v", service, err)
		}
	}
}
