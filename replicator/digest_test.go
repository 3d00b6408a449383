package replicator_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
)

// TestDigestsOfLogAndCopyAreEqual though the copy repeats records, and differ from the record on that differs.
func TestDigestsOfLogAndCopyAreEqual(t *testing.T) {
	m := newMesh(t, nil, "eu", "us")
	eu, us := m.nodes["eu"], m.nodes["us"]
	us.log.setFault(func(_ im.Partition, entries []im.Entry) appendFault {
		if len(entries)%3 == 0 {
			return landed // and is appended again
		}
		return fine
	})
	m.start()
	p := eu.own()[0]
	for i := range 500 {
		eu.log.must(p, message("eu", fmt.Sprint(i)))
	}
	eventually(t, "the copy holds all", func() bool { return len(us.log.taken(p)) == 501 })
	us.log.setFault(nil)
	m.caughtUp(t)
	eventually(t, "it was read back", func() bool {
		d, err := us.replicator().CopyDigest(t.Context(), p, 0, 0, 1)
		return err == nil && d.Next == 501
	})
	digest := func(n *node, from, to int64, piece int) im.CopyDigest {
		t.Helper()
		d, err := n.replicator().CopyDigest(t.Context(), p, from, to, piece)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range [][2]int64{{0, 501}, {1, 2}, {17, 333}, {500, 501}} {
		a, b := digest(eu, c[0], c[1], 7), digest(us, c[0], c[1], 7)
		if a.Next != 501 || b.Next != 501 || a.First != 0 || b.First != 0 || !slices.Equal(a.Sums, b.Sums) ||
			len(a.Sums) != int((c[1]-c[0]+6)/7) {
			t.Errorf("%v: %v and %v", c, a, b)
		}
	}
	us.log.mu.Lock()
	entries := us.log.parts[p].entries
	for i := range entries { // every record 300 that is there
		if string(entries[i].Value) == string(eu.log.parts[p].entries[300].Value) {
			entries[i].Value = append(slices.Clone(entries[i].Value), 'x')
		}
	}
	us.log.mu.Unlock()
	a, b := digest(eu, 290, 310, 1), digest(us, 290, 310, 1)
	for i := range a.Sums {
		if same := a.Sums[i] == b.Sums[i]; same != (i < 10) {
			t.Errorf("record %d: equal is %v", 290+i, same)
		}
	}
	for _, bad := range [][3]int64{{-1, 5, 1}, {0, 502, 1}, {5, 5, 1}, {0, 5, 0}} {
		if _, err := us.replicator().CopyDigest(t.Context(), p, bad[0], bad[1], int(bad[2])); im.CodeOf(err) != im.CodeBadRequest {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestDigestPassesWhatNoViewNeeds: a region was seeded behind what retention removed everywhere, and its copy goes on there. What it
// lacks is told as long as its views stand before it, and then is no gap.
func TestDigestPassesWhatNoViewNeeds(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	p := eu.own()[0]
	write(eu, p, 50)
	m.caughtUp(t)
	had := eu.log.end(p)
	us.kill(im.ErrKilled)
	write(eu, p, 300)
	eu.log.retain(p, 200)
	cut := eu.log.end(p) - 20
	(&viewOf{next: cut}).stands(us, p)
	us.start()
	eventually(t, "the copy goes on where the views are", func() bool {
		d, err := us.replicator().CopyDigest(t.Context(), p, 0, 0, 1)
		return err == nil && d.Next == eu.log.end(p)
	})
	compare := func() (compared, differs int64, err error) {
		return regions.Compare(t.Context(), m.keeper(t, "eu"), m.keeper(t, "us"), p)
	}
	if compared, differs, err := compare(); err != nil || differs >= 0 || compared != 20 {
		t.Errorf("%d compared, %d differs, %v; want the 20 behind the snapshot, and no gap", compared, differs, err)
	}
	if d, err := us.replicator().CopyDigest(t.Context(), p, 0, had, 1); err != nil || int64(len(d.Sums)) != had {
		t.Errorf("what stands before it has %d sums, %v", len(d.Sums), err)
	}
	for _, other := range []*viewOf{{next: cut - 1}, {next: had}} {
		other.stands(us, p)
		if _, _, err := compare(); im.CodeOf(err) != im.CodeUnavailable {
			t.Errorf("the views stand at %d and nothing is said of what they lack: %v", other.next, err)
		}
	}
	us.mute.Store(true)
	if _, _, err := compare(); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("where the views are is not known, and nothing is said of what they may lack: %v", err)
	}
}
