package simulator

import (
	"errors"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/owner"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// heartbeatEvery is how far apart heartbeats are: sparse, so that runs are about records.
const heartbeatEvery = minute

// lastBeat is when heartbeats end, so that every log is read to its end when the world is judged.
const lastBeat = runTime - minute/2

// server is one imserver.
type server struct {
	*proc
	r     *region
	n     int
	clock im.Clock
	rules accept.Rules
	marks *accept.Marks
	owns  bool // it believes so

	shard   *owner.Shard
	reign   int // grows where a deliberate bug keeps the shard that a fence voids
	ledger  *owner.Ledger
	tails   []*reading
	taking  bool // it is taking over
	polling bool // it is about to read
	asking  bool // it asks the store what it does not remember
	saving  bool // it is about to save how far was delivered
	sent    map[string]im.Position
	marking bool
}

// reading is a tail and the log it reads.
type reading struct {
	t    *view.Tail
	l    *log
	at   int64 // the next local offset to read
	next int64 // of the last cut
}

func newServer(r *region, n int, p *proc) *server {
	s := &server{proc: p, r: r, n: n}
	p.crash = s.forgetAll
	p.start = s.begin
	s.forgetAll()
	return s
}

func (s *server) forgetAll() {
	s.clock, s.marks = im.Clock{}, accept.NewMarks()
	s.forget()
	s.owns, s.taking, s.saving, s.marking = false, false, false, false
	s.r.reassign()
}

func (s *server) begin() {
	origins := s.r.followed()
	s.rules = accept.Rules{
		Origin: s.r.origin, Origins: origins, MaxText: 1 << 14, MaxTitle: 256, MaxMembers: 500, MaxSkew: im.MaxSkew, MaxAge: 24 * hours,
		CreateWindow: 120 * seconds, AppendTimeout: 5 * seconds,
	}
	for _, at := range s.r.store.view.Positions() {
		if at.Partition.Origin() == s.r.origin {
			s.clock.Raise(at.Watermark)
		}
	}
	s.after(s.dice.between(0, heartbeatEvery), s.beat)
	s.r.reassign()
}

// followed lists the origins whose logs the region has.
func (r *region) followed() []im.Origin {
	var all []im.Origin
	for _, l := range r.order {
		if l.family == im.FamilyRead {
			all = append(all, l.origin)
		}
	}
	return all
}

// reassign makes one that is up the owner, as discovery does, after a moment.
func (r *region) reassign() {
	if r.servers[0] == nil || r.servers[1] == nil {
		return
	}
	if !r.servers[r.owner].up && r.servers[1-r.owner].up {
		r.owner = 1 - r.owner
	}
	for _, s := range r.servers {
		if s.up {
			s.after(s.dice.between(10*ms, 3*second), s.learnOwner)
		}
	}
}

// learnOwner hears from discovery who owns the partitions.
func (s *server) learnOwner() {
	owns := s.r.owner == s.n
	if owns == s.owns {
		return
	}
	s.owns = owns
	if owns {
		s.takeOver()
		return
	}
	s.say("gives the partitions up")
	if s.ledger.Flying() == nil {
		s.forget()
	} // else once it has landed
}

func (s *server) forget() {
	s.shard, s.ledger, s.tails = nil, owner.NewLedger(), nil
	s.asking, s.polling = false, false
	s.sent = map[string]im.Position{}
}

// takeOver begins at the stored positions.
func (s *server) takeOver() {
	if s.taking || s.shard != nil {
		return
	}
	s.taking = true
	s.after(s.dice.between(ms, 5*ms), func() {
		s.taking = false
		if !s.owns || s.shard != nil {
			return
		}
		s.say("takes the partitions over")
		s.shard = owner.New(0, 1000)
		for _, l := range s.r.order {
			if l.family == im.FamilyRoute {
				continue
			}
			at := s.r.store.view.Position(l.p)
			t, err := view.NewTail(at, 1)
			must(err)
			s.shard.Follow(t)
			s.ledger.Begin(l.p, at.Next)
			s.tails = append(s.tails, &reading{t: t, l: l, at: at.Local, next: at.Next})
		}
		for _, rd := range s.tails {
			if sent, ok := s.r.store.sent[rd.l.p.Topic]; !ok {
				s.r.store.sent[rd.l.p.Topic] = rd.t.At().Position
			} else if !s.resend(rd, sent) {
				s.fenced()
				return
			}
		}
		s.wake()
	})
}

// resend delivers again what was applied past what was noted as delivered; false if another owner is at it.
func (s *server) resend(rd *reading, sent im.Position) bool {
	end := rd.t.At().Next
	if sent.Next >= end || end-sent.Next > 2000 {
		return true
	}
	t, err := view.NewTail(view.Position{Position: sent}, 1)
	must(err)
	for at := sent.Local; t.At().Next < end && at < int64(len(rd.l.entries)); at++ {
		if _, err := t.Take(&rd.l.entries[at]); err != nil {
			return true
		}
	}
	if t.At().Next < end {
		return true
	}
	part := t.Cut()
	if len(part.Records)+len(part.Cursors) == 0 {
		return true
	}
	ask := s.shard.Missing([]view.Part{part}, 0)
	ask.Partitions = []im.Partition{rd.l.p}
	facts := s.r.store.known(ask)
	if facts.Next[rd.l.p] != end {
		return false
	}
	s.shard.Remember(ask, facts)
	deliveries := s.shard.Again(part, s.r.name, false)
	s.shard.Committed(0)
	s.say("delivers %v %d to %d again", rd.l.p, sent.Next, end)
	s.hand(deliveries)
	s.note(rd.t.At().Position)
	return true
}

// wake makes the server read soon.
func (s *server) wake() {
	if s.up && !s.polling && s.shard != nil {
		s.polling = true
		s.after(s.dice.between(2*ms, 20*ms), s.poll)
	}
}

// poll reads on, and numbers what it has read.
func (s *server) poll() {
	s.polling = false
	if s.shard == nil || s.asking || !s.owns {
		return
	}
	if c := s.ledger.Collected(); c != nil && c.Rows > 500 {
		return // the log is the queue
	}
	var parts []view.Part
	for _, rd := range s.tails {
		end := min(int64(len(rd.l.entries)), rd.at+400)
		if end < int64(len(rd.l.entries)) {
			s.wake()
		}
		rd.t.Room(int(end - rd.at))
		for ; rd.at < end; rd.at++ {
			if !s.read(rd) {
				return
			}
		}
		if rd.t.Moved() {
			p := rd.t.Cut()
			s.w.Bug.miscut(rd, &p)
			rd.next = p.To.Next
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return
	}
	ask := s.shard.Missing(parts, s.ledger.Number())
	if len(ask.Heads)+len(ask.Groups) == 0 {
		s.number(parts)
		return
	}
	for i := range parts {
		ask.Partitions = append(ask.Partitions, parts[i].Partition)
	}
	s.asking = true
	shard, reign := s.shard, s.reign
	s.after(s.dice.between(200, 2*ms), func() {
		if s.shard != shard || s.reign != reign {
			return
		}
		facts := s.r.store.known(ask)
		if s.w.Bug == BugStaleFacts {
			facts.Next = nil
		} else if err := s.ledger.Check(ask.Partitions, facts.Next); err != nil {
			s.fenced()
			return
		}
		s.after(s.dice.between(100, ms), func() {
			if s.shard != shard || s.reign != reign {
				return
			}
			s.asking = false
			s.shard.Remember(ask, facts)
			s.number(parts)
			s.wake()
		})
	})
}

// read takes one entry; false if the log is another.
func (s *server) read(rd *reading) bool {
	e := &rd.l.entries[rd.at]
	verdict, err := s.w.Bug.take(rd, e)
	if err != nil {
		s.say("halts: %v", err)
		s.w.violate("I8", "%s: %v", s.name, err)
		return false
	}
	switch verdict {
	case im.Skip:
		s.w.stats.Skipped++
	case im.Gap:
		s.w.stats.Gaps++
	case im.Part:
		s.w.violate("I8", "%s took records of %v past its seal", s.name, rd.l.p)
	}
	return true
}

// number gives what was read its seqs, hands it over, and collects it.
func (s *server) number(parts []view.Part) {
	deliveries := s.shard.Take(parts, s.r.name, false)
	for i := range parts {
		s.ledger.Collect(parts[i])
	}
	s.hand(deliveries)
	if s.ledger.Flying() == nil {
		s.launch()
	}
}

// launch commits what was collected.
func (s *server) launch() {
	b := s.ledger.Launch()
	s.commit(b, 0)
}

func (s *server) commit(b *owner.Batch, attempt int) {
	shard := s.shard
	s.after(s.dice.between(ms, 8*ms), func() {
		bad := -1
		if s.r.storeBad > 0 && s.dice.chance(s.r.storeBad) {
			bad = s.dice.n(2)
		}
		err := errors.New("no connection")
		if bad != 0 {
			err = s.r.store.apply(b.Parts)
			if s.w.tracing {
				for i := range b.Parts {
					p := &b.Parts[i]
					s.say("commits %v %d to %d, %d records: %v", p.Partition, p.From, p.To.Next, len(p.Records), err)
				}
			}
		}
		if bad == 1 && err == nil {
			err = errors.New("no answer")
		}
		s.after(s.dice.between(100, 2*ms), func() {
			if s.shard != shard {
				return
			}
			switch {
			case errors.Is(err, view.ErrFenced):
				s.fenced()
			case err != nil:
				s.after(s.dice.between(20*ms, 2*second), func() {
					if s.shard == shard {
						s.commit(b, attempt+1)
					}
				})
			default:
				s.landed(b)
			}
		})
	})
}

func (s *server) landed(b *owner.Batch) {
	s.ledger.Land(true)
	s.shard.Committed(b.Number)
	for i := range b.Parts {
		s.note(b.Parts[i].To.Position)
	}
	if s.asking {
		return // what is being numbered is launched then
	}
	if s.ledger.Collected() != nil {
		s.launch()
	} else if !s.owns {
		s.forget()
		return
	}
	s.wake()
}

// fenced forgets what may be wrong, because another owner was faster.
func (s *server) fenced() {
	s.w.stats.Fenced++
	s.say("was fenced")
	if s.w.Bug == BugRemembersAfterFence && s.ledger.Flying() != nil {
		s.ledger.Land(false)
		s.ledger.Void()
		s.reign++
		for _, rd := range s.tails {
			at := s.r.store.view.Position(rd.l.p)
			t, err := view.NewTail(at, 1)
			must(err)
			rd.t, rd.at, rd.next = t, at.Local, at.Next
			s.ledger.Begin(rd.l.p, at.Next)
		}
		s.asking = false
		s.wake()
		return
	}
	s.forget()
	if s.owns {
		s.after(s.dice.between(20*ms, 100*ms), s.takeOver)
	}
}

// note keeps how far was delivered; it is saved once a second.
func (s *server) note(p im.Position) {
	s.sent[p.Partition.Topic] = p
	if s.saving {
		return
	}
	s.saving = true
	s.after(second, func() {
		s.saving = false
		for topic, p := range s.sent {
			s.r.store.sent[topic] = p
		}
		clear(s.sent)
	})
}

// hand gives deliveries to the router.
func (s *server) hand(deliveries []im.Delivery) {
	if len(deliveries) == 0 {
		return
	}
	d := s.dice.between(100, ms)
	s.w.push(d, s.r.router.proc, func() { s.r.router.deliver(deliveries, true) })
}

// beat appends a heartbeat to each own log.
func (s *server) beat() {
	s.after(heartbeatEvery, s.beat)
	if !s.owns || s.r.sealed || s.w.now > lastBeat {
		return
	}
	for _, l := range s.r.order {
		if !l.own || l.family == im.FamilyRoute || l.origin != s.r.origin {
			continue
		}
		stamp, err := s.clock.Next(s.now(), 0, im.MaxSkew)
		must(err)
		s.r.appendTo(s.proc, l, []im.Entry{wire.EncodeLogName(im.KindHeartbeat, l.name, stamp)}, nil, func(int64, bool) {})
	}
}
