package simulator

import (
	"fmt"
	"strings"
)

// Shrink looks for a smaller run that breaks the same invariant: with less of what people do, and less that goes wrong. It
// makes at most tries runs.
func Shrink(failed *Result, tries int) *Result {
	s := shrinker{best: failed, invariant: failed.Violations[0].Invariant, left: tries}
	end := failed.Violations[0].At
	plan := makePlan(&failed.Options)
	var ops, faults []int
	for i := range plan.ops { // what comes after the violation did not cause it
		if failed.Options.Ops.has(i) && plan.ops[i].at <= end {
			ops = append(ops, i)
		}
	}
	for i := range plan.faults {
		if failed.Options.Faults.has(i) && plan.faults[i].at <= end {
			faults = append(faults, i)
		}
	}
	s.try(ops, faults)
	for s.left > 0 {
		before := len(s.ops()) + len(s.faults())
		s.reduce(s.faults, func(k Kept) bool { return s.try(s.ops(), k) })
		s.reduce(s.ops, func(k Kept) bool { return s.try(k, s.faults()) })
		if len(s.ops())+len(s.faults()) == before {
			break
		}
	}
	return s.best
}

type shrinker struct {
	best      *Result
	invariant string
	left      int
}

func (s *shrinker) ops() Kept    { return all(s.best.Options.Ops, s.best.Ops) }
func (s *shrinker) faults() Kept { return all(s.best.Options.Faults, s.best.Faults) }

func all(k Kept, n int) Kept {
	if k != nil {
		return k
	}
	k = make(Kept, n)
	for i := range k {
		k[i] = i
	}
	return k
}

// reduce leaves out runs of numbers: halves first, then smaller pieces.
func (s *shrinker) reduce(now func() Kept, try func(Kept) bool) {
	for size := (len(now()) + 1) / 2; size >= 1 && s.left > 0; size /= 2 {
		for at := 0; at < len(now()) && s.left > 0; {
			k := now()
			fewer := append(append(Kept{}, k[:at]...), k[min(len(k), at+size):]...)
			if !try(fewer) {
				at += size
			}
		}
	}
}

// try runs with some parts of the plan, at a few timings.
func (s *shrinker) try(ops, faults Kept) bool {
	for salt := range uint64(2) {
		if s.left == 0 {
			return false
		}
		s.left--
		o := s.best.Options
		o.Salt += salt
		o.Ops, o.Faults = append(Kept{}, ops...), append(Kept{}, faults...)
		if r := Run(o, false); len(r.Violations) > 0 && r.Violations[0].Invariant == s.invariant {
			s.best = r
			return true
		}
	}
	return false
}

// Explain shows a failed run for people: how to run it again, what went wrong, and what happened before, as far as it is
// about what is broken.
func Explain(o Options, lines int) string {
	r := Run(o, true)
	var b strings.Builder
	fmt.Fprintf(&b, "options: %v\n%s", o, r.Plan)
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "%v\n", v)
	}
	trace := r.Trace
	if len(r.Violations) > 0 {
		trace = about(trace, r.Violations[0].Detail)
	}
	if len(trace) > lines {
		fmt.Fprintf(&b, "... %d lines before\n", len(trace)-lines)
		trace = trace[len(trace)-lines:]
	}
	for _, l := range trace {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.String()
}

// about leaves out what says nothing about a violation: of a partition or a conversation that it names, the others; and
// heartbeats.
func about(trace []string, detail string) []string {
	var topics []string
	for word := range strings.FieldsSeq(detail) {
		word = strings.Trim(word, ",:;")
		if strings.HasPrefix(word, "msg.") || strings.HasPrefix(word, "read.") {
			topic, _, _ := strings.Cut(word, "/")
			topics = append(topics, topic)
		}
	}
	var kept []string
	for _, l := range trace {
		if strings.Contains(l, " takes heartbeat as ") || strings.HasSuffix(l, "0 records: <nil>") {
			continue
		}
		if i := strings.Index(l, "msg."); i < 0 {
			i = strings.Index(l, "read.")
			if i >= 0 && len(topics) > 0 && !mentions(l[i:], topics) {
				continue
			}
		} else if len(topics) > 0 && !mentions(l[i:], topics) {
			continue
		}
		kept = append(kept, l)
	}
	return kept
}

func mentions(line string, topics []string) bool {
	for _, t := range topics {
		if strings.HasPrefix(line, t) {
			return true
		}
	}
	return false
}
