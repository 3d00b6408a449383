package consul

import (
	"context"
	"encoding/json"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// stateValue is what the key of a state holds.
type stateValue struct {
	State im.State `json:"state"`
	Stamp im.Stamp `json:"stamp"`
}

func newStates(c *Consul) *board[im.RegionState] {
	return &board[im.RegionState]{
		c: c, path: c.cfg.Prefix + "/regions/", what: "states", said: map[im.Region]map[im.Region]im.RegionState{},
		of:    func(s im.RegionState) im.Region { return s.Region },
		order: im.RegionState.Compare,
		value: func(s im.RegionState) any { return stateValue{s.State, s.Stamp} },
		parse: func(r im.Region, value []byte) (im.RegionState, error) {
			var v stateValue
			if err := json.Unmarshal(value, &v); err != nil {
				return im.RegionState{}, err
			}
			_, err := im.ParseState(string(v.State))
			return im.RegionState{Region: r, State: v.State, Stamp: v.Stamp}, err
		},
	}
}

// SetRegionState implements registry.States.
func (c *Consul) SetRegionState(ctx context.Context, s im.RegionState) error {
	if _, err := im.ParseState(string(s.State)); err != nil {
		return err
	}
	if _, err := im.ParseRegion(string(s.Region)); err != nil {
		return err
	}
	return c.states.set(ctx, s)
}

// RegionStates implements registry.States.
func (c *Consul) RegionStates(ctx context.Context) ([]im.RegionState, error) {
	return c.states.list(ctx)
}

// WatchRegionStates implements registry.States.
func (c *Consul) WatchRegionStates(ctx context.Context, fn func([]im.RegionState)) error {
	return c.states.watch(ctx, fn)
}

// memberValue is what the key of a member holds.
type memberValue struct {
	Origins    []im.Origin          `json:"origins"`
	Replicator string               `json:"replicator"`
	Stamp      im.Stamp             `json:"stamp"`
	Via        map[im.Region]string `json:"via,omitempty"`
}

func newMembers(c *Consul) *board[im.Member] {
	return &board[im.Member]{
		c: c, path: c.cfg.Prefix + "/members/", what: "members", said: map[im.Region]map[im.Region]im.Member{},
		of:    func(m im.Member) im.Region { return m.Region },
		order: im.Member.Compare,
		value: func(m im.Member) any { return memberValue{m.Origins, m.Replicator, m.Stamp, m.Via} },
		parse: func(r im.Region, value []byte) (im.Member, error) {
			var v memberValue
			if err := json.Unmarshal(value, &v); err != nil {
				return im.Member{}, err
			}
			m := im.Member{Region: r, Origins: v.Origins, Replicator: v.Replicator, Stamp: v.Stamp, Via: v.Via}
			return m, m.Check()
		},
	}
}

// SetMember implements registry.Members.
func (c *Consul) SetMember(ctx context.Context, m im.Member) error {
	if err := m.Check(); err != nil {
		return err
	}
	return c.members.set(ctx, m)
}

// Members implements registry.Members.
func (c *Consul) Members(ctx context.Context) ([]im.Member, error) { return c.members.list(ctx) }

// WatchMembers implements registry.Members.
func (c *Consul) WatchMembers(ctx context.Context, fn func([]im.Member)) error {
	return c.members.watch(ctx, fn)
}

var (
	_ registry.Registry = (*Consul)(nil)
	_ registry.States   = (*Consul)(nil)
	_ registry.Members  = (*Consul)(nil)
)
