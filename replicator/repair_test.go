package replicator_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// keeper is a region's replicator as an operator calls it.
func (m *mesh) keeper(t testing.TB, r im.Region) *rpc.Copies {
	t.Helper()
	n := m.nodes[r]
	links := rpc.NewLinks(func(im.Region) (rpc.LinkTarget, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		return rpc.LinkTarget{Addr: n.addr, TLS: n.identity.Client("replicator", r)}, nil
	})
	conn, err := links.Dial(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return rpc.NewCopies(conn, r)
}

// mend is a repair of a region's copies of eu's log.
func (m *mesh) mend(t testing.TB, of im.Region) *regions.Repair {
	r := &regions.Repair{
		Origin: "eu", Region: of, Copies: m.keeper(t, of), Log: m.keeper(t, "eu"), Others: map[im.Region]regions.Keeper{},
		Every: 20 * time.Millisecond, Patience: time.Minute, Progress: func(s string) { t.Log(s) },
	}
	for _, other := range m.regions {
		if other != "eu" && other != of {
			r.Others[other] = m.keeper(t, other)
		}
	}
	return r
}

// view is a reader of a copy as an imserver is one: what it took, and where it stands.
type viewOf struct {
	next, local int64
	took        []im.Entry
}

// read takes what a copy has for it.
func (v *viewOf) read(n *node, p im.Partition) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	part := n.log.parts[p]
	f, at := im.Follower{Next: v.next}, v.local
	if at < part.start || at > part.end() {
		at = part.start
	}
	gap := false
	for _, e := range part.entries[at-part.start:] {
		h := wire.DecodeHead(&e)
		verdict := f.See(h.OriginOffset, h.Generation, h.Marker())
		if verdict == im.Take {
			v.took = append(v.took, e)
		}
		gap = verdict == im.Gap || gap && verdict != im.Take
		if !gap {
			v.local = e.Offset + 1
		}
	}
	v.next = f.Next
}

// stands tells the node's replicator where its view is.
func (v *viewOf) stands(n *node, p im.Partition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.views == nil {
		n.views = map[im.Partition]im.Position{}
	}
	n.views[p] = im.Position{Partition: p, Next: v.next, Local: v.local, Log: n.m.nodes["eu"].name.ID}
}

// halted is a mesh in which us stopped receiving a partition, as each case says, while eu went on.
type halted struct {
	name    string
	change  func(t *testing.T, m *mesh, p im.Partition, v *viewOf)
	wrong   string // said of the partition
	fetched bool   // something has to come from ap
	refusal string // instead of a repair
	itself  bool   // nothing is to be repaired
}

func heartbeat(n *node) im.Entry {
	return wire.EncodeLogName(im.KindHeartbeat, n.name, im.StampAt(time.Now()))
}

// write has eu write, with a heartbeat now and then.
func write(n *node, p im.Partition, count int) {
	for i := range count {
		n.log.must(p, message(im.Origin(n.region), fmt.Sprint(n.log.end(p))))
		if i%20 == 19 {
			n.log.must(p, heartbeat(n))
		}
	}
}

// cutOff has eu write while us hears nothing, and ap does.
func cutOff(t *testing.T, m *mesh, p im.Partition, count int) {
	t.Helper()
	eu := m.nodes["eu"]
	m.nodes["us"].kill(im.ErrKilled)
	write(eu, p, count)
	eventually(t, "ap has it", func() bool { return m.copied("eu", "ap") })
}

var haltings = []halted{
	{name: "nothing happened", itself: true, change: func(*testing.T, *mesh, im.Partition, *viewOf) {}},
	{name: "retention passed the copy", wrong: "retention has removed", fetched: true, change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		cutOff(t, m, p, 300)
		m.nodes["eu"].log.retain(p, 200)
	}},
	{name: "retention emptied the copy and passed the view", wrong: "retention has removed", fetched: true, change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		cutOff(t, m, p, 300)
		m.nodes["eu"].log.retain(p, 200)
		us := m.nodes["us"].log
		us.retain(p, us.end(p))
	}},
	{name: "the copy's topic was made anew", itself: true, change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		cutOff(t, m, p, 30)
		m.nodes["us"].log.truncate(p, 0)
	}},
	{name: "the copy's topic was made anew and retention passed the view", wrong: "retention has removed", fetched: true, change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		cutOff(t, m, p, 300)
		m.nodes["eu"].log.retain(p, 200)
		m.nodes["us"].log.truncate(p, 0)
	}},
	{name: "the copy lost records that the view needs", wrong: "the views need record", change: func(t *testing.T, m *mesh, p im.Partition, v *viewOf) {
		loseFromCopy(t, m, p, v)
	}},
	{name: "the copy lost records that the view needs and retention removed them", wrong: "the views need record", fetched: true, change: func(t *testing.T, m *mesh, p im.Partition, v *viewOf) {
		loseFromCopy(t, m, p, v)
		m.nodes["eu"].log.retain(p, m.nodes["eu"].log.end(p)-10)
	}},
	{name: "retention passed every copy", refusal: "no other region has them all", change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		cutOff(t, m, p, 300)
		m.nodes["eu"].log.retain(p, 200)
		m.nodes["ap"].log.retain(p, 150)
	}},
	{name: "the topic was recreated", refusal: "ap has a copy of the same log as us", change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		cutOff(t, m, p, 10)
		m.nodes["eu"].kill(im.ErrKilled)
		m.nodes["eu"].log.truncate(p, 0)
		m.nodes["eu"].log.must(p, wire.EncodeLogName(im.KindLog, im.LogName{Origin: "eu", ID: im.NewUUID(time.Now())}, 1))
		m.nodes["eu"].start()
	}},
	{name: "the origin was restored from an older backup", refusal: "it was restored from an older backup, or lost its end", change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		m.nodes["eu"].kill(im.ErrKilled)
		m.nodes["us"].kill(im.ErrKilled)
		m.nodes["eu"].log.truncate(p, 30)
		m.nodes["eu"].start()
	}},
	{name: "the origin was restored and went on", refusal: "it was restored from an older backup and written to since", change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		m.nodes["eu"].kill(im.ErrKilled)
		m.nodes["us"].kill(im.ErrKilled)
		m.nodes["eu"].log.truncate(p, 30)
		write(m.nodes["eu"], p, 300)
		m.nodes["eu"].start()
	}},
	{name: "the copy is not what it was", refusal: "is not that of eu and ap", change: func(t *testing.T, m *mesh, p im.Partition, _ *viewOf) {
		us := m.nodes["us"]
		us.kill(im.ErrKilled)
		us.log.mu.Lock()
		entries := us.log.parts[p].entries
		last := &entries[len(entries)-1]
		last.Value = append(slices.Clone(last.Value), 'x')
		us.log.mu.Unlock()
	}},
}

// loseFromCopy takes acknowledged records out of the middle of the copy, further back than a start looks for them, while
// the view stands before them.
func loseFromCopy(t *testing.T, m *mesh, p im.Partition, v *viewOf) {
	t.Helper()
	eu, us := m.nodes["eu"], m.nodes["us"]
	v.read(us, p)
	v.stands(us, p)
	write(eu, p, 300)
	eventually(t, "copies have it", func() bool { return m.copied("eu", "us") && m.copied("eu", "ap") })
	us.kill(im.ErrKilled)
	us.log.mu.Lock()
	defer us.log.mu.Unlock()
	part := us.log.parts[p]
	lost := part.end() - 250
	part.entries = slices.Delete(part.entries, int(lost-part.start), int(lost-part.start)+20)
	for i := range part.entries {
		part.entries[i].Offset = part.start + int64(i)
	}
}

// TestRepair: whatever halts a partition is seen, and repaired from the link or from ap's copy while eu goes on writing, or
// refused with what to do instead. The view takes every record once. Run twice, it finds nothing to do.
func TestRepair(t *testing.T) {
	for _, c := range haltings {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, nil, "eu", "us", "ap").start()
			eu, us := m.nodes["eu"], m.nodes["us"]
			p := eu.own()[0]
			v := &viewOf{}
			write(eu, p, 50)
			m.caughtUp(t)
			v.read(us, p)
			v.stands(us, p)
			c.change(t, m, p, v)
			v.stands(us, p)
			us.kill(im.ErrKilled) // those that were not yet
			us.start()

			r := m.mend(t, "us")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			opens(ctx, t, r)
			r.DryRun = true
			end := us.log.end(p)
			done, err := r.Run(ctx)
			if (err != nil) != (c.refusal != "") || c.itself != (len(done.Plans) == 0) || done.Repaired != 0 {
				t.Fatalf("the dry run: %+v, %v", done, err)
			}
			if !c.itself && us.log.end(p) != end {
				t.Error("the dry run appended something")
			}
			r.DryRun = false
			stop := make(chan struct{})
			wrote := make(chan struct{})
			go func() { // traffic flows
				defer close(wrote)
				for c.refusal == "" {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						eu.log.must(p, message("eu", "meanwhile"))
					}
				}
			}()
			done, err = r.Run(ctx)
			close(stop)
			<-wrote
			t.Logf("%+v", done)
			switch {
			case c.refusal != "":
				if err == nil || len(done.Plans) != 1 || !strings.Contains(done.Plans[0].String(), c.refusal) {
					t.Fatalf("%v, %v; want %q", done.Plans, err, c.refusal)
				}
				if us.log.end(p) != end {
					t.Error("something was appended")
				}
				return
			case err != nil:
				t.Fatal(err)
			case !c.itself && (done.Repaired == 0 || !strings.Contains(done.Plans[0].Wrong, c.wrong) || done.Compared == 0):
				t.Errorf("%+v; want it repaired because %q", done, c.wrong)
			case c.fetched != (done.Fetched > 0):
				t.Errorf("%d records were fetched", done.Fetched)
			}
			eventually(t, "the view has everything", func() bool { v.read(us, p); return v.next == eu.log.end(p) })
			took := v.took
			if int64(len(took)) != v.next {
				t.Fatalf("the view took %d records of %d", len(took), v.next)
			}
			for i, e := range took {
				if h := wire.DecodeHead(&e); h.OriginOffset != int64(i) {
					t.Fatalf("record %d has offset %d", i, h.OriginOffset)
				}
				if o := int64(i) - eu.log.parts[p].start; o >= 0 && wire.Checksum(&e) != wire.Checksum(&eu.log.parts[p].entries[o]) {
					t.Fatalf("record %d is another", i)
				}
			}
			v.stands(us, p)
			if again, err := r.Run(ctx); err != nil || len(again.Plans) != 0 {
				t.Errorf("run again: %+v, %v", again, err)
			}
			us.kill(im.ErrKilled) // and a start finds its place
			us.start()
			write(eu, p, 5)
			eventually(t, "it goes on after a start", func() bool { v.read(us, p); return v.next == eu.log.end(p) })
		})
	}
}

// opens waits until the link has told what it refuses.
func opens(ctx context.Context, t *testing.T, r *regions.Repair) {
	t.Helper()
	eventually(t, string(r.Region)+" knows how it is", func() bool {
		h, err := r.Copies.Check(ctx, "eu")
		return err == nil && h.Open
	})
}

// TestRepairPassesHolesOver: us lacks what eu has no more. Of ap and sa, ap comes first and reaches as far, but a copy that holds what is
// first and last of it may have a hole: then the records come from sa, and it is said why not from ap. If both have one, or ap is asked for
// by name, nothing is begun. A hole past what eu has no more does not matter: that comes from eu.
func TestRepairPassesHolesOver(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(m *mesh, p im.Partition)
		source im.Region // asked for by name
		from   im.Region // empty: it is refused
		to     int64     // where what is fetched ends; 0: anywhere
		says   []string
	}{
		{
			name: "records are missing in ap", from: "sa", says: []string{"come from sa", "passed over: ap (", "record 120 is not in the copy of ap"},
			change: func(m *mesh, p im.Partition) { m.nodes["ap"].hole(p, 120, 140, 0) },
		},
		{
			name: "ap was seeded behind what is missing", from: "sa", says: []string{"come from sa", "passed over: ap (it lacks some of the records 51 to 289"},
			change: func(m *mesh, p im.Partition) { m.nodes["ap"].hole(p, 53, 290, 290) },
		},
		{
			name: "both have holes", says: []string{"no other region has them all", "record 120 is not in the copy of ap", "record 199 is not in the copy of sa"},
			change: func(m *mesh, p im.Partition) { m.nodes["ap"].hole(p, 120, 140, 0); m.nodes["sa"].hole(p, 199, 200, 0) },
		},
		{
			name: "ap is asked for by name", source: "ap", says: []string{"no other region has them all", "record 120 is not in the copy of ap"},
			change: func(m *mesh, p im.Partition) { m.nodes["ap"].hole(p, 120, 140, 0) },
		},
		{
			name: "eu has what is missing in ap", from: "ap", to: 200, says: []string{"Records 51 to 199 come from ap"},
			change: func(m *mesh, p im.Partition) { m.nodes["ap"].hole(p, 210, 220, 0) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, nil, "eu", "us", "ap", "sa").start()
			eu, us := m.nodes["eu"], m.nodes["us"]
			p := eu.own()[0]
			v := &viewOf{}
			write(eu, p, 48)
			m.caughtUp(t)
			v.read(us, p)
			v.stands(us, p)
			cutOff(t, m, p, 300)
			eventually(t, "sa has it", func() bool { return m.copied("eu", "sa") })
			c.change(m, p)
			eu.log.retain(p, 200)
			us.start()

			r := m.mend(t, "us")
			r.Source = c.source
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			opens(ctx, t, r)
			end := us.log.end(p)
			done, err := r.Run(ctx)
			if len(done.Plans) != 1 {
				t.Fatalf("%+v, %v", done, err)
			}
			plan := done.Plans[0]
			for _, want := range c.says {
				if said := plan.String(); !strings.Contains(said, want) {
					t.Errorf("it says %q; want %q", said, want)
				}
			}
			if c.from == "" {
				if err == nil || plan.Bring != nil || us.log.end(p) != end {
					t.Errorf("%+v, %v, the copy grew from %d to %d; want it refused", plan, err, end, us.log.end(p))
				}
				return
			}
			if err != nil || plan.Bring.From != c.from || done.Repaired != 1 || c.to > 0 && plan.Bring.To != c.to {
				t.Fatalf("%+v, %v; want it from %s", done, err, c.from)
			}
			eventually(t, "the view has everything", func() bool { v.read(us, p); return v.next == eu.log.end(p) })
		})
	}
}

// hole takes records out of the region's copy while its replicator is away, which had read them. Its views tell that they need view next; 0:
// they tell nothing.
func (n *node) hole(p im.Partition, from, to, view int64) {
	n.kill(im.ErrKilled)
	if view > 0 {
		(&viewOf{next: view}).stands(n, p)
	}
	n.log.mu.Lock()
	f := n.log.parts[p]
	f.entries = slices.DeleteFunc(f.entries, func(e im.Entry) bool {
		at := wire.DecodeHead(&e).OriginOffset
		return at >= from && at < to
	})
	for i := range f.entries {
		f.entries[i].Offset = f.start + int64(i)
	}
	n.log.mu.Unlock()
	n.start()
}

// TestRepairBehindHub: a region that takes a log from a hub which is refused it is told to repair the hub first. That done, the rest
// comes by itself, and nothing is left to repair.
func TestRepairBehindHub(t *testing.T) {
	m := newMesh(t, func(c *replicator.Config) {
		if c.Region == "ap" {
			c.Via = map[im.Region]im.Region{"eu": "us"}
		}
	}, "eu", "us", "ap", "sa").start()
	m.caughtUp(t)
	eu, us := m.nodes["eu"], m.nodes["us"]
	p := eu.own()[0]
	us.kill(im.ErrKilled)
	write(eu, p, 300)
	eventually(t, "sa has it", func() bool { return m.copied("eu", "sa") })
	eu.log.retain(p, 200)
	us.start()
	eventually(t, "ap says that us is refused", func() bool { return len(refusals(m, "ap", "eu")) == 1 })

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	behind := m.mend(t, "ap")
	done, err := behind.Run(ctx)
	if err == nil || len(done.Plans) != 1 || done.Plans[0].Partition != p || done.Plans[0].Bring != nil || done.Repaired > 0 {
		t.Fatalf("%+v, %v; want %v refused", done, err, p)
	}
	for _, want := range []string{"us, over which it comes, is refused it", "retention has removed", "antipode link repair --from eu --to us first"} {
		if said := done.Plans[0].String(); !strings.Contains(said, want) {
			t.Errorf("it says %q; want %q", said, want)
		}
	}
	if done, err := m.mend(t, "us").Run(ctx); err != nil || done.Repaired != 1 {
		t.Fatalf("us: %+v, %v", done, err)
	}
	eventually(t, "ap has it", func() bool { return m.copied("eu", "ap") })
	eventually(t, "ap knows that us is refused nothing", func() bool { return len(refusals(m, "ap", "eu")) == 0 })
	if done, err := behind.Run(ctx); err != nil || len(done.Plans) != 0 {
		t.Errorf("run again: %+v, %v", done, err)
	}
}

// TestRoutesJump: when retention passed the copy of a route log, nobody needs what is missing: the link goes on where the
// log begins, by itself. Under another name it does not.
func TestRoutesJump(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	var p im.Partition
	for _, q := range eu.own() {
		if q.Topic == im.RouteTopic("eu") {
			p = q
		}
	}
	write(eu, p, 50)
	m.caughtUp(t)
	us.kill(im.ErrKilled)
	before := us.log.end(p)
	write(eu, p, 300)
	eu.log.must(p, heartbeat(eu))
	eu.log.retain(p, 200)
	eu.log.must(p, heartbeat(eu))
	us.start()
	eventually(t, "the copy goes on", func() bool { return us.log.end(p) == before+eu.log.end(p)-200 })
	us.log.mu.Lock()
	entries := us.log.parts[p].entries
	if h := wire.DecodeHead(&entries[before]); h.OriginOffset != 200 {
		t.Errorf("it goes on at %d", h.OriginOffset)
	}
	us.log.mu.Unlock()
	us.kill(im.ErrKilled)
	us.start()
	write(eu, p, 5)
	eventually(t, "it goes on after a start", func() bool { return us.log.end(p) == before+eu.log.end(p)-200 })

	us.kill(im.ErrKilled)
	eu.kill(im.ErrKilled)
	eu.log.truncate(p, 200)
	other := im.LogName{Origin: "eu", ID: im.NewUUID(time.Now())}
	for range 400 {
		eu.log.must(p, wire.EncodeLogName(im.KindHeartbeat, other, 1))
	}
	eu.log.retain(p, 500)
	eu.start()
	us.start()
	eventually(t, "refused", func() bool { return len(refusals(m, "us", "eu")) == 1 })
}

// A region that was seeded, whose replicator starts before its imservers, is refused what retention removed until they tell
// how far they are; then its copies begin there.
func TestCopiesBeginWhereASeededViewIs(t *testing.T) {
	m := newMesh(t, nil, "eu", "us")
	eu, us := m.nodes["eu"], m.nodes["us"]
	us.mute.Store(true)
	at := map[im.Partition]int64{}
	for _, p := range eu.own() {
		if family, _, _ := im.ParseTopic(p.Topic); family == im.FamilyRoute {
			continue
		}
		write(eu, p, 50)
		eu.log.retain(p, 30)
		at[p] = 40
	}
	m.start()
	refused := func() (n int) {
		for _, in := range us.replicator().Status().In {
			n += len(in.Refused)
		}
		return n
	}
	eventually(t, "what retention removed is refused", func() bool { return refused() == len(at) })
	for p, next := range at {
		(&viewOf{next: next}).stands(us, p)
	}
	us.mute.Store(false)
	eventually(t, "the copies have what follows", func() bool {
		for p := range at {
			us.log.mu.Lock()
			entries := us.log.parts[p].entries
			first := int64(-1)
			if len(entries) > 0 {
				first = wire.DecodeHead(&entries[0]).OriginOffset
			}
			us.log.mu.Unlock()
			if len(entries) < int(eu.log.end(p)-at[p]) {
				return false
			}
			if first != at[p] {
				t.Fatalf("the copy of %v begins at %d, the view needs %d", p, first, at[p])
			}
		}
		return refused() == 0
	})
}
