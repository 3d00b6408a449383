package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Regions that are added while others run. The file of a cluster stays what it was: the data folder remembers them, and
// later starts of the cluster have them beside the file's.

// offsetStep is how far regions are from each other that share an address, unless told otherwise.
const offsetStep = 10_000

// with is a file with one more region. One that names no place gets the address after the highest, or a port offset where all
// share an address.
func (f File) with(r Region) (File, error) {
	if r.Host == "" {
		f.place(&r)
	}
	f.Regions = append(slices.Clone(f.Regions), r)
	var errs []error
	for _, p := range f.check() {
		errs = append(errs, fmt.Errorf("region %s: %s %s", r.Name, p.Key, p.Text))
	}
	return f, errors.Join(errs...)
}

func (f *File) place(r *Region) {
	var highest net.IP
	offset, shared := 0, len(f.Regions) > 1
	for _, other := range f.Regions {
		ip := net.ParseIP(other.Host).To16()
		shared = shared && other.Host == f.Regions[0].Host
		offset = max(offset, other.PortOffset)
		if bytes.Compare(ip, highest) > 0 {
			highest = ip
		}
	}
	if shared {
		r.Host = f.Regions[0].Host
		if r.PortOffset == 0 {
			r.PortOffset = offset + offsetStep
		}
		return
	}
	next := slices.Clone(highest)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			break
		}
	}
	r.Host = next.String()
}

// planWithAdded plans a file's regions and those that the data folder remembers beside them. One that the file lists by now is
// as the file says.
func planWithAdded(f File, fresh bool) (*Plan, error) {
	data, err := filepath.Abs(f.Data)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	var added []Region
	if !fresh {
		if added, err = readAdded(data); err != nil {
			return nil, err
		}
	}
	for _, r := range added {
		if slices.ContainsFunc(f.Regions, func(listed Region) bool { return listed.Name == r.Name }) {
			continue
		}
		if f, err = f.with(r); err != nil {
			return nil, fmt.Errorf("%w (it was added while others ran: %s)", err, filepath.Join(data, addedFile))
		}
	}
	p, err := NewPlan(f)
	if err == nil {
		p.added = added
	}
	return p, err
}

// wasAdded tells whether a region came while others ran.
func (p *Plan) wasAdded(name im.Region) bool {
	return slices.ContainsFunc(p.added, func(r Region) bool { return r.Name == name })
}

func readAdded(data string) ([]Region, error) {
	text, err := os.ReadFile(filepath.Join(data, addedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	var added []Region
	if err := json.Unmarshal(text, &added); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(data, addedFile), err)
	}
	return added, nil
}

// remember keeps the plan for later starts and commands.
func (p *Plan) remember() error {
	if err := writeAdded(p.Data, p.added); err != nil {
		return err
	}
	return p.record()
}

func writeAdded(data string, added []Region) error {
	text, err := json.MarshalIndent(added, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, addedFile), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

// Forget has later starts go without a region that was added to others, and deletes what it holds. Nothing may run on the data
// folder.
func Forget(data string, name im.Region) error {
	added, err := readAdded(data)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(added, func(r Region) bool { return r.Name == name })
	if i < 0 {
		return fmt.Errorf("region %q: %w: it is none of those that were added to the cluster on %s", name, ErrUnknown, data)
	}
	l, err := takeLock(data)
	if err != nil {
		return err
	}
	defer l.release()
	if err := writeAdded(data, slices.Delete(added, i, i+1)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(data, string(name))); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

// ErrAdding says that a region is being added already.
var ErrAdding = errors.New("a region is being added already: wait until it serves")

// Add starts a region beside those that run, which hear nothing of it and are not touched. When it cannot be started nothing of
// it is left. One that was added before is started where it is down.
func (s *Supervisor) Add(ctx context.Context, r Region, progress func(string)) error {
	if !s.growing.TryLock() {
		return ErrAdding
	}
	defer s.growing.Unlock()
	if s.closing.Err() != nil {
		return errors.New("the cluster is stopping")
	}
	if present := s.Plan(); present.wasAdded(r.Name) {
		progress(fmt.Sprintf("region %s was added before: starting what of it is down", r.Name))
		return s.again(ctx, r.Name)
	}
	before := s.now()
	if _, taken := before.plan.Region(r.Name); taken {
		return fmt.Errorf("region %s is one of the cluster's already", r.Name)
	}
	plan, err := before.plan.adds(r)
	if err != nil {
		return err
	}
	region, _ := plan.Region(r.Name)
	if _, err := os.Stat(region.Dir); err == nil {
		return fmt.Errorf("region %s: %s is there already: remove it, or choose another name", r.Name, region.Dir)
	}
	progress(fmt.Sprintf("starting %d parts of %s at %s", len(region.Members), r.Name, region.Host))
	if err = plan.free(before.plan); err == nil {
		err = s.found(plan, region)
	}
	if err == nil {
		err = s.begin(ctx, []RegionPlan{*region}, progress)
	}
	if err != nil {
		return errors.Join(err, s.withdraw(before, region))
	}
	return nil
}

// adds is the plan with one more region.
func (p *Plan) adds(r Region) (*Plan, error) {
	f, err := p.File.with(r)
	if err != nil {
		return nil, err
	}
	next, err := NewPlan(f)
	if err != nil {
		return nil, err
	}
	next.added = append(slices.Clone(p.added), f.Regions[len(f.Regions)-1])
	return next, nil
}

// found makes what a region needs before it starts.
func (s *Supervisor) found(plan *Plan, region *RegionPlan) error {
	if err := plan.makeFolders(); err != nil {
		return err
	}
	if err := s.cfg.Keys(plan.KeysDir(), plan.Names()); err != nil {
		return err
	}
	if err := plan.writeConfigs(region.Dir); err != nil {
		return err
	}
	return s.supervise(plan, plan.remember)
}

// withdraw stops and forgets a region that could not be started.
func (s *Supervisor) withdraw(before *standing, region *RegionPlan) error {
	now := s.now()
	var members []*member
	for _, m := range region.Members {
		if own, ok := now.members[m.Name]; ok {
			own.retire()
			members = append(members, own)
		}
	}
	err := stopInTurn(members)
	for _, l := range now.links {
		if _, stays := before.links.find(l.From, l.To); stays != nil {
			l.proxy.Close()
		}
	}
	s.standing.Store(before)
	return errors.Join(err, before.plan.remember(), os.RemoveAll(region.Dir))
}

// again starts what of a region is down.
func (s *Supervisor) again(ctx context.Context, name im.Region) error {
	ctx, cancel := context.WithTimeout(ctx, s.Plan().File.StartIn)
	defer cancel()
	return s.Start(ctx, string(name))
}

// Configure writes the configuration of all regions anew, with what was added, for the next start of their services.
func (s *Supervisor) Configure() error {
	plan := s.Plan()
	return plan.writeConfigs(plan.Data)
}
