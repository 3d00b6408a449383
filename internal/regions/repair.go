package regions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Keeper is a region's replicator: it has the region's log and the copies of the others'.
type Keeper interface {
	Digester
	// Hold tells what the copies of an origin hold, read to their ends, if the generation is 0.
	Hold(ctx context.Context, o im.Origin, generation uint32) ([]im.CopyState, error)
}

// Receiver is the region whose copies are repaired: its replicator.
type Receiver interface {
	Keeper
	// Check tells how the link from an origin is, and what the views can take from its copies.
	Check(ctx context.Context, o im.Origin) (im.CopyHealth, error)
	// Repair brings copies what they lack, at so many bytes a second.
	Repair(ctx context.Context, o im.Origin, repairs []im.CopyRepair, bytesPerSecond int, tell func(im.CopyProgress) error) error
}

// Repair brings a region's copies of one origin what they lack and its views need, from the origin or from another region's
// copies. Nothing that a copy holds is changed or removed; a reader takes each record once, whatever was brought before; so
// it may be run while traffic flows, and again after any failure.
//
// It ends by comparing what it brought with what the origin and the source hold.
type Repair struct {
	Origin   im.Origin
	Region   im.Region // whose copies
	Copies   Receiver
	Log      Keeper               // the origin's region
	Others   map[im.Region]Keeper // regions whose copies may have what the origin's log has no more
	Source   im.Region            // the one of them to take it from; empty: of those that have it all the one that reaches furthest
	Rate     int                  // bytes a second that come from other regions; 0: as fast as it goes
	DryRun   bool
	Progress func(string)
	Every    time.Duration // between looks whether the link has brought the rest [1 s]
	Patience time.Duration // for the link to bring anything [1 min]
}

// Repaired is what a repair did.
type Repaired struct {
	Plans    []Plan // of every partition that is not as it should be
	Repaired int    // partitions
	Fetched  int64  // records that came from other regions
	Linked   int64  // records that the link brought once more, or for the first time
	Compared int64  // records that were found to be equal afterwards
}

// Plan is what is wrong with a partition, and what is to be done.
type Plan struct {
	Partition im.Partition
	Wrong     string
	Bring     *im.CopyRepair // nil: it cannot be repaired
	Until     int64          // one past the last record that the copy is to have afterwards, at least
	Passed    []string       // regions that were passed over as the source, and why
	Refusal   string         // why not, and what to do instead
}

// String is a line for operators.
func (p *Plan) String() string {
	switch {
	case p.Bring == nil:
		return fmt.Sprintf("%v: %s. Not repaired: %s", p.Partition, p.Wrong, p.Refusal)
	case p.Bring.To > p.Bring.Begin:
		line := fmt.Sprintf("%v: %s. Records %d to %d come from %s, the rest over the link", p.Partition, p.Wrong, p.Bring.Begin, p.Bring.To-1, p.Bring.From)
		if len(p.Passed) > 0 {
			line += "; passed over: " + strings.Join(p.Passed, "; ")
		}
		return line
	}
	return fmt.Sprintf("%v: %s. The link is asked to go on at %d", p.Partition, p.Wrong, p.Bring.Begin)
}

// repairRounds bounds how often it is looked whether something is left to repair: retention may pass on meanwhile.
const repairRounds = 5

// Run does it. The error says that something is not as it should be still.
func (r *Repair) Run(ctx context.Context) (Repaired, error) {
	r.Every, r.Patience = cmp.Or(r.Every, time.Second), cmp.Or(r.Patience, time.Minute)
	if r.Progress == nil {
		r.Progress = func(string) {}
	}
	var done Repaired
	said := map[im.Partition]bool{}
	for round := 0; ; round++ {
		plans, err := r.plan(ctx)
		if err != nil {
			return done, err
		}
		var bring []Plan
		var refused []Plan
		for _, p := range plans {
			if !said[p.Partition] {
				r.Progress(p.String())
				said[p.Partition] = true
				done.Plans = append(done.Plans, p)
			}
			if p.Bring != nil {
				bring = append(bring, p)
			} else {
				refused = append(refused, p)
			}
		}
		switch {
		case r.DryRun || len(bring) == 0:
			if len(refused) > 0 {
				return done, fmt.Errorf("%d partitions of %s in %s cannot be repaired", len(refused), r.Origin, r.Region)
			}
			return done, nil
		case round == repairRounds:
			return done, fmt.Errorf("%d partitions of %s in %s are not as they should be after %d rounds: look at the replicator's log there",
				len(bring), r.Origin, r.Region, round)
		}
		if err := r.bring(ctx, bring, &done); err != nil {
			return done, fmt.Errorf("%w: run the same command again, it goes on from here", err)
		}
		if err := r.prove(ctx, bring, &done); err != nil {
			return done, err
		}
		done.Repaired += len(bring)
	}
}

// plan looks at every partition.
func (r *Repair) plan(ctx context.Context) ([]Plan, error) {
	health, err := r.health(ctx)
	if err != nil {
		return nil, err
	}
	var plans []Plan
	var others map[im.Region]map[im.Partition]im.CopyState
	held := 0
	for i := range health.Copies {
		k := &health.Copies[i]
		if k.Generation > 0 {
			held++
			continue
		}
		if k.Between != "" { // what it lacks comes once that has it
			plans = append(plans, r.between(k))
			continue
		}
		if k.Refused == "" && k.Reach >= k.Next {
			continue
		}
		if others == nil {
			if others, err = r.ask(ctx); err != nil {
				return nil, err
			}
		}
		p, err := r.judge(ctx, k, others)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	if held > 0 {
		return nil, fmt.Errorf("%s was declared lost: its copies in %s are held or sealed, and end there (antipode region lose, region return)", r.Origin, r.Region)
	}
	return plans, nil
}

// between is about a partition that the region in between on its way is refused itself: what that lacks it cannot pass on.
func (r *Repair) between(k *im.CopyCheck) Plan {
	return Plan{
		Partition: k.Partition,
		Wrong:     fmt.Sprintf("%s, over which it comes, is refused it: %s", k.Between, strings.TrimPrefix(k.BetweenRefused, k.Partition.String()+": ")),
		Refusal:   fmt.Sprintf("run antipode link repair --from %s --to %s first: what that brings comes here by itself", r.Origin.Region(), k.Between),
	}
}

// health waits a moment for a link that is just being opened.
func (r *Repair) health(ctx context.Context) (im.CopyHealth, error) {
	for end := time.Now().Add(r.Patience / 6); ; {
		h, err := r.Copies.Check(ctx, r.Origin)
		if err != nil || h.Open {
			return h, err
		}
		if time.Now().After(end) {
			return h, fmt.Errorf("the link from %s to %s is not open, so what its log is now is not known: mend the link first (replicator.peers, certificate, network): %s",
				r.Origin.Region(), r.Region, h.Error)
		}
		if !wait(ctx, r.Every) {
			return h, context.Cause(ctx)
		}
	}
}

// ask learns what other regions hold. Those that do not answer are passed over, and said.
func (r *Repair) ask(ctx context.Context) (map[im.Region]map[im.Partition]im.CopyState, error) {
	all := map[im.Region]map[im.Partition]im.CopyState{}
	for _, region := range slices.Sorted(maps.Keys(r.Others)) {
		states, err := r.Others[region].Hold(ctx, r.Origin, 0)
		if err != nil {
			if region == r.Source {
				return nil, err
			}
			r.Progress(fmt.Sprintf("what %s holds is not known: %v", region, err))
			continue
		}
		all[region] = map[im.Partition]im.CopyState{}
		for _, s := range states {
			all[region][s.Partition] = s
		}
	}
	return all, nil
}

// What an operator is to do where nothing can be brought: because the origin's log is not what it was, or the copy, or because
// the records are gone.
func remedyOrigin(origin im.Region) string {
	return fmt.Sprintf("stop the imservers of %[1]s before they write more to it, and give it back its own Kafka; if that log is gone, "+
		"declare it lost (antipode region lose %[1]s) and let it return under its next epoch (antipode region return)", origin)
}

func remedyHere(here im.Region) string {
	return fmt.Sprintf("the copies of %[1]s are of another log: check log.brokers and timelines.urls there; if its Kafka was mixed up or restored, "+
		"declare %[1]s lost (antipode region lose %[1]s) and let it return with empty disks (antipode region return)", here)
}

func remedyGone(here, origin im.Region) string {
	return fmt.Sprintf("take them from a snapshot of timelines that have them: stop the imservers of %[1]s, make its databases empty (antipode migrate), "+
		"run antipode region seed %[1]s --from %[2]s, and start them; or restore its timelines from a backup that is younger than what is missing", here, origin)
}

// judge decides about one partition that is not as it should be.
func (r *Repair) judge(ctx context.Context, k *im.CopyCheck, others map[im.Region]map[im.Partition]im.CopyState) (Plan, error) {
	region := r.Origin.Region()
	p := Plan{Partition: k.Partition, Wrong: strings.TrimPrefix(k.Refused, k.Partition.String()+": ")}
	if k.Reach < k.Next {
		p.Wrong = fmt.Sprintf("the views need record %d, which the copy does not bring them any more, though it ends at %d", k.Reach, k.Next)
	}
	refuse := func(remedy, format string, args ...any) (Plan, error) {
		p.Refusal = fmt.Sprintf(format, args...) + ": " + remedy
		return p, nil
	}
	log := cmp.Or(k.Log, k.Origin)
	if k.Origin == (im.UUID{}) {
		return refuse("run antipode migrate there", "%s does not tell the name of its log", region)
	}
	if log != k.Origin {
		for _, name := range slices.Sorted(maps.Keys(others)) {
			switch s := others[name][k.Partition]; s.Log {
			case k.Origin:
				return refuse(remedyHere(r.Region), "%s has a copy of the log that %s has now", name, region)
			case log:
				return refuse(remedyOrigin(region), "%s has a copy of the same log as %s", name, r.Region)
			}
		}
		return refuse(remedyOrigin(region), "another log was made in %s, or another Kafka stands behind its replicator", region)
	}
	own, err := r.Log.Digest(ctx, k.Partition, 0, 0, 1)
	if err != nil {
		return p, err
	}
	if most, where := k.Next, r.Region; own.Next < most {
		for _, name := range slices.Sorted(maps.Keys(others)) {
			if s := others[name][k.Partition]; s.Log == log && s.Next > most {
				most, where = s.Next, name
			}
		}
		return refuse(remedyOrigin(region), "the log of %s ends at %d, %s has records up to %d: it was restored from an older backup, or lost its end", region, own.Next, where, most)
	}
	begin := min(k.Reach, k.Next)
	if differs, err := r.parted(ctx, k.Partition, own); err != nil {
		return p, err
	} else if differs >= 0 {
		for _, name := range slices.Sorted(maps.Keys(others)) {
			if _, at, err := Compare(ctx, r.Log, r.Others[name], k.Partition); err == nil && at < 0 && others[name][k.Partition].Next > differs {
				return refuse(remedyHere(r.Region), "record %d here is not that of %s and %s", differs, region, name)
			}
		}
		return refuse(remedyOrigin(region), "record %d of the log of %s is not the one that it shipped: it was restored from an older backup and written to since", differs, region)
	}
	p.Bring, p.Until = &im.CopyRepair{Partition: k.Partition, Begin: begin, Log: log}, k.Next
	if begin >= own.First {
		return p, nil
	}
	from, to, passed, err := r.source(ctx, k, own, others)
	if err != nil {
		return p, err
	}
	p.Passed = passed
	if from == "" {
		p.Bring = nil
		return refuse(remedyGone(r.Region, region), "records %d to %d are gone from the log of %s by retention, and no other region has them all (%s)",
			begin, own.First-1, region, cmp.Or(strings.Join(passed, "; "), "none was asked"))
	}
	p.Bring.From, p.Bring.To, p.Until = from, to, max(p.Until, to)
	return p, nil
}

// parted finds a record that differs between the log and the copy, at both ends of what both hold; -1 if there is none.
// Where the copy cannot be read through, it is not compared.
func (r *Repair) parted(ctx context.Context, p im.Partition, own im.CopyDigest) (int64, error) {
	here, err := r.Copies.Digest(ctx, p, 0, 0, 1)
	if err != nil {
		return -1, err
	}
	from, end := max(own.First, here.First), min(own.Next, here.Next)
	if from >= end {
		return -1, nil
	}
	_, last, err := compareFrom(ctx, r.Log, r.Copies, p, end-1, end)
	if im.CodeOf(err) == im.CodeUnavailable || err == nil && last < 0 { // a gap is what may be repaired
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	if _, first, err := compareFrom(ctx, r.Log, r.Copies, p, from, end); err == nil && first >= 0 {
		return first, nil
	}
	return last, nil
}

// source chooses a region whose copy has every record from where the copy is to begin up to what the log still holds: of those that
// reach furthest the first, and it is read through to find out. Passed are those that cannot be it, as far as they were looked at.
func (r *Repair) source(
	ctx context.Context, k *im.CopyCheck, own im.CopyDigest, others map[im.Region]map[im.Partition]im.CopyState,
) (from im.Region, to int64, passed []string, err error) {
	type candidate struct {
		region im.Region
		has    im.CopyDigest
		end    int64
	}
	pass := func(name im.Region, why error) { passed = append(passed, fmt.Sprintf("%s (%v)", name, why)) }
	begin := min(k.Reach, k.Next)
	var candidates []candidate
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if r.Source != "" && name != r.Source {
			continue
		}
		s := others[name][k.Partition]
		if s.Log != cmp.Or(k.Log, k.Origin) || s.Generation > 0 {
			pass(name, errors.New("it has no copy of that log that goes on"))
			continue
		}
		d, err := r.Others[name].Digest(ctx, k.Partition, 0, 0, 1)
		switch {
		case err != nil:
			pass(name, err)
		case d.First > begin || d.Next < own.First:
			pass(name, fmt.Errorf("it has %d to %d", d.First, d.Next-1))
		default:
			candidates = append(candidates, candidate{name, d, min(d.Next, own.Next)})
		}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(b.end, a.end) })
	for _, c := range candidates {
		why := r.fits(ctx, k.Partition, c.region, c.has, own, begin)
		if why == nil {
			_, why = unbroken(ctx, r.Others[c.region], k.Partition, begin, own.First)
		}
		if ctx.Err() != nil {
			return "", 0, nil, context.Cause(ctx)
		}
		if why != nil {
			pass(c.region, why)
			continue
		}
		to, _ = unbroken(ctx, r.Others[c.region], k.Partition, own.First, c.end) // what it lacks of that the link brings
		return c.region, to, passed, nil
	}
	return "", 0, passed, nil
}

// unbroken tells up to where a region has every record from an offset on, and why it is not up to the end that was asked for.
func unbroken(ctx context.Context, of Digester, p im.Partition, from, end int64) (int64, error) {
	for from < end {
		to := min(end, from+compareRecords)
		d, err := of.Digest(ctx, p, from, to, int(to-from))
		if err != nil {
			return from, err
		}
		if d.First > from {
			return from, fmt.Errorf("it lacks some of the records %d to %d, which no view there needs of it", from, d.First-1)
		}
		from = to
	}
	return from, nil
}

// fits compares the records at the seams: the one before what is to be brought, with the copy; the first that the log still
// holds, with the log.
func (r *Repair) fits(ctx context.Context, p im.Partition, name im.Region, d, own im.CopyDigest, begin int64) error {
	if d.Next > own.First {
		_, at, err := compareFrom(ctx, r.Log, r.Others[name], p, own.First, own.First+1)
		if err != nil {
			return err
		}
		if at >= 0 {
			return fmt.Errorf("record %d of %s is not that of %s", own.First, name, r.Origin.Region())
		}
	}
	if here, err := r.Copies.Digest(ctx, p, 0, 0, 1); err == nil && here.First < begin && d.First < begin {
		if _, at, err := compareFrom(ctx, r.Copies, r.Others[name], p, begin-1, begin); err == nil && at >= 0 {
			return fmt.Errorf("record %d of %s is not that of %s", begin-1, name, r.Region)
		}
	}
	return nil
}

// bring has the region bring what it lacks, and waits until the link has brought the rest.
func (r *Repair) bring(ctx context.Context, plans []Plan, done *Repaired) error {
	orders := make([]im.CopyRepair, len(plans))
	at := map[im.Partition]int64{}
	total := int64(0)
	for i, p := range plans {
		orders[i] = *p.Bring
		at[p.Partition] = p.Bring.Begin
		total += max(0, p.Bring.To-p.Bring.Begin)
	}
	began, told := time.Now(), time.Now()
	fetched := int64(0)
	err := r.Copies.Repair(ctx, r.Origin, orders, r.Rate, func(g im.CopyProgress) error {
		if grown := g.Next - at[g.Partition]; grown > 0 {
			at[g.Partition] = g.Next
			fetched += grown
		}
		if time.Since(told) >= 5*r.Every {
			told = time.Now()
			r.Progress(fmt.Sprintf("%d of %d records were fetched%s", fetched, total, ETA(total, total-fetched, time.Since(began))))
		}
		return nil
	})
	done.Fetched += fetched
	if err != nil {
		return err
	}
	return r.linked(ctx, plans, at, done)
}

// linked waits until the copies have everything that they are to have.
func (r *Repair) linked(ctx context.Context, plans []Plan, at map[im.Partition]int64, done *Repaired) error {
	began, told, moved := time.Now(), time.Now(), time.Now()
	first := int64(-1)
	for {
		states, err := r.Copies.Hold(ctx, r.Origin, 0)
		if err != nil {
			return err
		}
		left := int64(0)
		for _, p := range plans {
			i := slices.IndexFunc(states, func(s im.CopyState) bool { return s.Partition == p.Partition })
			if i < 0 {
				return fmt.Errorf("%s has no copy of %v", r.Region, p.Partition)
			}
			next := states[i].Next
			if grown := next - at[p.Partition]; grown > 0 {
				at[p.Partition], moved = next, time.Now()
				done.Linked += grown
			}
			left += max(0, p.Until-next)
		}
		switch {
		case left == 0:
			return r.shipped(ctx, plans)
		case time.Since(moved) > r.Patience:
			return fmt.Errorf("the link from %s has brought nothing of %d missing records for %v", r.Origin.Region(), left, r.Patience)
		case first < 0:
			first = left
		case time.Since(told) >= 5*r.Every:
			told = time.Now()
			r.Progress(fmt.Sprintf("%d records are still to come over the link%s", left, ETA(first, left, time.Since(began))))
		}
		if !wait(ctx, r.Every) {
			return context.Cause(ctx)
		}
	}
}

// shipped waits until the link ships the partitions. One that it goes on refusing is planned again.
func (r *Repair) shipped(ctx context.Context, plans []Plan) error {
	for end := time.Now().Add(r.Patience); ; {
		health, err := r.Copies.Check(ctx, r.Origin)
		if err != nil {
			return err
		}
		refused := !health.Open
		for _, k := range health.Copies {
			refused = refused || k.Refused != "" && slices.ContainsFunc(plans, func(p Plan) bool { return p.Partition == k.Partition })
		}
		if !refused || time.Now().After(end) {
			return nil
		}
		if !wait(ctx, r.Every) {
			return context.Cause(ctx)
		}
	}
}

// prove compares what was brought: with the source what the log has no more, with the log the rest.
func (r *Repair) prove(ctx context.Context, plans []Plan, done *Repaired) error {
	for _, p := range plans {
		here, err := r.Copies.Digest(ctx, p.Partition, 0, 0, 1)
		if err != nil {
			return err
		}
		own, err := r.Log.Digest(ctx, p.Partition, 0, 0, 1)
		if err != nil {
			return err
		}
		from := max(p.Bring.Begin, here.First)
		seam := min(max(from, own.First), here.Next)
		n, at, err := compareFrom(ctx, r.Log, r.Copies, p.Partition, seam, min(own.Next, here.Next))
		if err == nil && at < 0 && p.Bring.From != "" {
			done.Compared += n
			n, at, err = compareFrom(ctx, r.Others[p.Bring.From], r.Copies, p.Partition, from, min(seam, p.Bring.To))
		}
		if err != nil {
			return fmt.Errorf("%v was repaired, but could not be compared: %w", p.Partition, err)
		}
		if at >= 0 {
			return fmt.Errorf("%v: record %d in %s differs after the repair: seed the region anew", p.Partition, at, r.Region)
		}
		done.Compared += n
	}
	return nil
}

// ETA says how long the rest takes at the pace so far.
func ETA(first, missing int64, took time.Duration) string {
	if done := first - missing; done > 0 {
		return fmt.Sprintf(", about %v to go", (took * time.Duration(missing) / time.Duration(done)).Round(time.Second))
	}
	return ""
}

// wait is false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
