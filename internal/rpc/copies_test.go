package rpc

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/wire"
)

var copyOfUS = im.Partition{Topic: "msg.us.direct", Number: 3}

func (f *fakeReplicator) CopyHold(_ context.Context, o im.Origin, generation uint32) ([]im.CopyState, error) {
	if o != "us" {
		return nil, im.Errorf(im.CodeBadRequest, "no copies of %s", o)
	}
	return []im.CopyState{{Partition: copyOfUS, Next: 7, Generation: generation, Log: im.UUID{9}, Checksum: 5, Checked: true, Held: 11}}, nil
}

func (f *fakeReplicator) CopyRead(_ context.Context, _ im.Region, p im.Partition, from, to int64, send func(*wire.LinkBatch) error) error {
	for ; from < to; from++ {
		if from == 9 {
			return im.Errorf(im.CodeUnavailable, "%v lacks 9", p)
		}
		if err := send(&wire.LinkBatch{First: from, Count: 1}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeReplicator) CopyFill(_ context.Context, _ im.Origin, generation uint32, fills []im.CopyFill) ([]im.CopyState, error) {
	return []im.CopyState{{Partition: fills[0].Partition, Next: fills[0].To, Generation: generation, Log: im.UUID{9}}}, nil
}

func (f *fakeReplicator) CopySeal(_ context.Context, _ im.Origin, _ uint32, seals []im.CopyFill) ([]im.CopyState, error) {
	return []im.CopyState{{Partition: seals[0].Partition, Next: seals[0].To, Generation: im.SealedGeneration, Log: im.UUID{9}}}, nil
}

func (f *fakeReplicator) CopyCheck(_ context.Context, o im.Origin) (im.CopyHealth, error) {
	return im.CopyHealth{Open: true, Error: "of " + string(o), Copies: []im.CopyCheck{{
		CopyState: im.CopyState{Partition: copyOfUS, Next: 7, Log: im.UUID{9}}, View: 3, Reach: 4, Refused: "why", Origin: im.UUID{8},
		Between: "ap", BetweenRefused: "why there",
	}}}, nil
}

func (f *fakeReplicator) CopyRepair(_ context.Context, o im.Origin, repairs []im.CopyRepair, bytesPerSecond int, tell func(im.CopyProgress) error) error {
	want := im.CopyRepair{Partition: copyOfUS, Begin: 4, To: 7, From: "ap", Log: im.UUID{9}}
	if o != "us" || bytesPerSecond != 1000 || len(repairs) != 1 || repairs[0] != want {
		return im.Errorf(im.CodeBadRequest, "%s: %v at %d B/s", o, repairs, bytesPerSecond)
	}
	for next := want.Begin + 1; next <= want.To; next++ {
		if err := tell(im.CopyProgress{Partition: copyOfUS, Next: next}); err != nil {
			return err
		}
	}
	return im.Errorf(im.CodeOverloaded, "once only")
}

// copiesAs returns eu's copies as a service of a region sees them.
func copiesAs(t *testing.T, ca *certs.Authority, s *Server, service string, region im.Region) *Links {
	t.Helper()
	id, err := ca.Identity(service, region)
	if err != nil {
		t.Fatal(err)
	}
	return NewLinks(func(im.Region) (LinkTarget, error) {
		return LinkTarget{Addr: s.Addr(), TLS: id.Client("replicator", "eu")}, nil
	})
}

func TestCopies(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := replicatorServerOf(t, ca, &fakeReplicator{updates: make(chan im.Held)})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	links := copiesAs(t, ca, s, "replicator", "ap")
	conn, err := links.Dial("eu")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eu := NewCopies(conn, "eu")

	states, err := eu.Hold(ctx, "us", 4)
	want := []im.CopyState{{Partition: copyOfUS, Next: 7, Generation: 4, Log: im.UUID{9}, Checksum: 5, Checked: true, Held: 11}}
	if err != nil || !reflect.DeepEqual(states, want) {
		t.Fatalf("%+v, %v", states, err)
	}
	if _, err := eu.Hold(ctx, "sa", 4); im.CodeOf(err) != im.CodeBadRequest {
		t.Errorf("the error came as %v", err)
	}
	if _, err := NewCopies(conn, "us").Hold(ctx, "us", 0); im.CodeOf(err) != im.CodeWrongRegion {
		t.Errorf("eu answered for us: %v", err)
	}
	fill := []im.CopyFill{{Partition: copyOfUS, To: 12, From: "ap"}}
	if states, err := eu.Fill(ctx, "us", 4, fill); err != nil || states[0].Next != 12 || states[0].Generation != 4 {
		t.Errorf("%+v, %v", states, err)
	}
	if states, err := eu.Seal(ctx, "us", 4, fill); err != nil || !states[0].Sealed() {
		t.Errorf("%+v, %v", states, err)
	}
	var got []int64
	take := func(b *wire.LinkBatch) error { got = append(got, b.First); return nil }
	if err := links.ReadCopy(ctx, "eu", copyOfUS, 5, 8, take); err != nil || !reflect.DeepEqual(got, []int64{5, 6, 7}) {
		t.Errorf("%v, %v", got, err)
	}
	if err := links.ReadCopy(ctx, "eu", copyOfUS, 8, 12, take); err == nil {
		t.Error("a copy with a gap was read to its end")
	}
	health, err := eu.Check(ctx, "us")
	if wantHealth, _ := (&fakeReplicator{}).CopyCheck(ctx, "us"); err != nil || !reflect.DeepEqual(health, wantHealth) {
		t.Errorf("%+v, %v", health, err)
	}
	var told []int64
	tell := func(p im.CopyProgress) error { told = append(told, p.Next); return nil }
	err = eu.Repair(ctx, "us", []im.CopyRepair{{Partition: copyOfUS, Begin: 4, To: 7, From: "ap", Log: im.UUID{9}}}, 1000, tell)
	if im.CodeOf(err) != im.CodeOverloaded || !reflect.DeepEqual(told, []int64{5, 6, 7}) {
		t.Errorf("%v, %v", told, err)
	}
}

// TestOnlyReplicatorsMayTouchCopies: an imserver of another region, or of the own one, may not hold or read them.
func TestOnlyReplicatorsMayTouchCopies(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := replicatorServerOf(t, ca, &fakeReplicator{updates: make(chan im.Held)})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, region := range []im.Region{"eu", "ap"} {
		links := copiesAs(t, ca, s, "imserver", region)
		conn, err := links.Dial("eu")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := NewCopies(conn, "eu").Hold(ctx, "us", 1); err == nil {
			t.Errorf("an imserver of %s held copies", region)
		}
		if err := links.ReadCopy(ctx, "eu", copyOfUS, 0, 1, func(*wire.LinkBatch) error { return nil }); err == nil {
			t.Errorf("an imserver of %s read a copy", region)
		}
	}
}
