// Package registry says who runs where: the instances of each service in each region, and the states of regions. The
// interfaces here are what the composition root needs of a discovery system; Memory implements them in one process, for
// `antipode dev` and tests. Package registrytest holds every implementation to the same behaviour.
//
// A registry's silence is not an answer: readers keep the last they heard. Nor is an empty answer the truth by itself:
// a catalogue that lost its memory answers so.
package registry

import (
	"context"
	"errors"

	"github.com/antipode-im/antipode/im"
)

// Registry holds the instances.
type Registry interface {
	// Register makes an instance known until its lease ends. One that is registered again under the same region,
	// service and id takes the place of the former, whose lease is then lost.
	Register(ctx context.Context, i im.Instance) (Lease, error)

	// Instances lists the live instances of a service ("" for all) in a region, by service and id. Reading another
	// region's list is allowed.
	Instances(ctx context.Context, service string, r im.Region) ([]im.Instance, error)

	// Watch calls fn with the list at once and whenever it changes, one call at a time, until ctx ends; it returns
	// ctx's error. It goes on through outages of the registry, without calls.
	Watch(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error
}

// States holds the states of regions.
type States interface {
	// SetRegionState says what a region is. What was said with a higher stamp stands.
	SetRegionState(ctx context.Context, s im.RegionState) error

	// RegionStates lists the regions that something was said of, by name.
	RegionStates(ctx context.Context) ([]im.RegionState, error)

	// WatchRegionStates is to RegionStates what Watch is to Instances.
	WatchRegionStates(ctx context.Context, fn func([]im.RegionState)) error
}

// Members holds what regions there are, beside those that a configuration names. It is kept as the states are.
type Members interface {
	// SetMember says that there is a region, and what its log and address are. What was said with a higher stamp stands.
	SetMember(ctx context.Context, m im.Member) error

	// Members lists the regions that something was said of, by name.
	Members(ctx context.Context) ([]im.Member, error)

	// WatchMembers is to Members what Watch is to Instances.
	WatchMembers(ctx context.Context, fn func([]im.Member)) error
}

// Lease keeps an instance registered: renewed in the background until it is closed, abandoned or lost.
type Lease interface {
	// Update changes what is known of the instance. Region, service and id cannot change.
	Update(i im.Instance) error

	// Close takes the instance out at once.
	Close() error

	// Abandon stops renewing, as a crash would: the instance disappears when its time to live has passed.
	Abandon()

	// Lost is closed when the lease finds that a later registration took its place. Nothing is renewed from then on: whoever
	// holds it is no longer listed, while somebody else is listed under its name.
	Lost() <-chan struct{}
}

// ErrLeaseLost is returned by a lease that no longer holds its instance.
var ErrLeaseLost = errors.New("registry: the lease is lost: register again")

// ErrSilent is returned while a registry does not answer. Keep the last answer.
var ErrSilent = errors.New("registry: no answer")
