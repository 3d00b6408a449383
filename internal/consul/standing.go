package consul

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// standing is which renewals and watches fail: those by which others find the processes of the own region, and by which they
// find others. That the agent answers to other questions says nothing of them: a token may be taken back at any time.
type standing struct {
	mu      sync.Mutex
	failing map[string]*failure // by what it is
}

type failure struct {
	err   error
	text  string // of the problem, by which it is another
	told  time.Time
	final bool
}

// toldAgain is how often the log hears of what goes on failing.
const toldAgain = time.Minute

// fails notes a failure. It tells whether the log should hear of it: the first time, when it is another, and now and then.
func (s *standing) fails(what string, err error, now time.Time) (tell bool) {
	problem, _, final := Explain(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.failing[what]
	if f == nil {
		f = &failure{}
		s.failing[what] = f
	}
	tell = f.text != problem || now.Sub(f.told) >= toldAgain
	f.err, f.text, f.final = err, problem, final
	if tell {
		f.told = now
	}
	return tell
}

// works notes a success, or that nobody tries any more.
func (s *standing) works(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failing, what)
}

// of is one of the failures, a final one first; nil if there are none.
func (s *standing) of(finalOnly bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, f := range s.failing {
		if f.final || !finalOnly {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.SortFunc(names, func(a, b string) int {
		switch x, y := s.failing[a].final, s.failing[b].final; {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return strings.Compare(a, b)
	})
	return s.failing[names[0]].err
}

// complain notes that something failed, and logs it unless it was logged lately.
func (c *Consul) complain(what, consequence string, r im.Region, err error) {
	tell := true
	if r == c.cfg.Region {
		tell = c.standing.fails(what, err, time.Now())
	}
	if !tell {
		return
	}
	args := []any{"what", what, "of", r, "backend", "consul", "address", c.cfg.Address, "error", err}
	if problem, remedy, final := Explain(err); final {
		c.log.Error("Consul refuses: "+consequence+"; trying again", append(args, "problem", problem, "remedy", remedy)...)
		return
	}
	c.log.Warn("Consul does not answer: "+consequence+"; trying again", args...)
}

// Standing tells whether Consul refuses what the process lives by there: to renew its registration, or to tell it of its own
// region's instances. Silence is no refusal: with what is known it works on, and so do all others. One that is refused is
// not listed any more, and others take its partitions.
func (c *Consul) Standing(context.Context) error {
	return c.fail("", c.standing.of(true))
}

// Ping tells whether the agent answers, its datacenter has a leader, and what the process lives by there goes on.
func (c *Consul) Ping(ctx context.Context) error {
	if err := c.leader(ctx); err != nil {
		return err
	}
	return c.fail("", c.standing.of(false))
}
