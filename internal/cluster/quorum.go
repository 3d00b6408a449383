package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/process"
)

// quorumGrace is how long a broker whose quorum is gone may still take to stop.
const quorumGrace = 5 * time.Second

// quorumLook is how often it is looked whether a quorum is there.
const quorumLook = 100 * time.Millisecond

// quorum is the brokers of one region. A broker that is asked to stop first has the controller move what it leads, which takes a
// majority of them. Without one it would wait for minutes, and there is nobody to whom anything could be moved: so when all
// are stopped at once, the last may have to be killed. That loses nothing: its log is in the kernel's hands.
type quorum struct {
	voters []*member
	grace  time.Duration
}

// formQuorums tells brokers, where a region has several, which others there are.
func formQuorums(members map[string]*member, grace time.Duration) {
	regions := map[im.Region]*quorum{}
	for _, m := range members {
		if m.plan.Kind != backendKafka {
			continue
		}
		q := regions[m.plan.Region]
		if q == nil {
			q = &quorum{grace: grace}
			regions[m.plan.Region] = q
		}
		q.voters = append(q.voters, m)
	}
	for _, q := range regions {
		if len(q.voters) < 2 {
			continue
		}
		for _, m := range q.voters {
			if m.quorum == nil { // those of a region come together, and stay
				m.quorum = q
			}
		}
	}
}

// there tells whether a majority runs, be it on its way out.
func (q *quorum) there() bool {
	run := 0
	for _, m := range q.voters {
		if s, _ := m.snapshot(); s.State != StateDown && s.State != StateExited && s.State != StatePaused {
			run++
		}
	}
	return run > len(q.voters)/2
}

// stop asks a broker to stop, and kills it once it had its grace without a quorum, which is no error. When ctx ends first it is
// killed as well, which is one.
func (q *quorum) stop(ctx context.Context, broker *process.Process) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var orphaned atomic.Bool
	go func() {
		look := time.NewTicker(quorumLook)
		defer look.Stop()
		var since time.Time
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-look.C:
				switch {
				case q.there():
					since = time.Time{}
				case since.IsZero():
					since = now
				case now.Sub(since) >= q.grace:
					orphaned.Store(true)
					cancel()
					return
				}
			}
		}
	}()
	err := broker.Stop(ctx)
	if orphaned.Load() {
		select {
		case <-broker.Done():
			return nil
		default: // not even killed
		}
	}
	return err
}
