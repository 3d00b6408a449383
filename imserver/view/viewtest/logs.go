// Package viewtest makes up logs and copies for tests: everything that apply must live with, in small.
package viewtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Logs are the logs of some origins, as their owners wrote them.
type Logs struct {
	Count   int // partitions of each topic
	Origins []im.Origin
	Users   []im.UID
	Groups  []im.Conversation
	Entries map[im.Partition][]im.Entry // offsets dense from 0
}

// Epoch is when made-up logs begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Make returns logs with about n records, the same for the same seed.
func Make(seed uint64, n int) *Logs { return MakeFrom(rand.New(rand.NewPCG(seed, 1)), n) }

// MakeFrom is Make with what chooses passed in.
func MakeFrom(rng *rand.Rand, n int) *Logs {
	l := &Logs{
		Count:   1 + rng.IntN(3),
		Origins: []im.Origin{"ap", "eu", "us"},
		Users:   []im.UID{"ann", "bob", "cat", "dan"},
		Entries: map[im.Partition][]im.Entry{},
	}
	for _, o := range l.Origins {
		name := im.LogName{Origin: o, ID: fixedUUID(uint64(o[0]), 0)}
		for _, topic := range im.Topics(o) {
			if topic == im.RouteTopic(o) {
				continue
			}
			for number := range l.Count {
				l.append(im.Partition{Topic: topic, Number: number}, wire.EncodeLogName(im.KindLog, name, im.StampAt(epoch)))
			}
		}
	}
	for i := range 2 {
		o := l.Origins[rng.IntN(len(l.Origins))]
		g := im.Group(o, fixedUUID(0xfeed, uint64(i)))
		if i == 1 {
			g = "s" + g[1:]
		}
		l.Groups = append(l.Groups, g)
	}
	m := maker{Logs: l, rng: rng, stamp: im.StampAt(epoch)}
	for range n {
		m.one()
	}
	return l
}

func (l *Logs) append(p im.Partition, e im.Entry) {
	e.Partition, e.Offset = p, int64(len(l.Entries[p]))
	l.Entries[p] = append(l.Entries[p], e)
}

// Partitions lists the partitions, sorted.
func (l *Logs) Partitions() []im.Partition {
	var all []im.Partition
	for p := range l.Entries {
		all = append(all, p)
	}
	slices.SortFunc(all, im.Partition.Compare)
	return all
}

// Conversations lists the conversations that have records, sorted.
func (l *Logs) Conversations() []im.Conversation {
	seen := map[im.Conversation]bool{}
	for _, entries := range l.Entries {
		for i := range entries {
			if h := wire.DecodeHead(&entries[i]); h.Conversation != "" {
				seen[h.Conversation] = true
			}
		}
	}
	var all []im.Conversation
	for c := range seen {
		all = append(all, c)
	}
	slices.Sort(all)
	return all
}

type maker struct {
	*Logs
	rng   *rand.Rand
	stamp im.Stamp
	sent  []im.Record
	next  uint64
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

func fixedUUID(a, b uint64) im.UUID {
	ms := uint64(epoch.UnixMilli())
	u := im.UUID{byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms)}
	u[6], u[8] = 0x70, 0x80
	u[9], u[10] = byte(a>>8), byte(a)
	u[14], u[15] = byte(b>>8), byte(b)
	return u
}

func (m *maker) one() {
	o := pick(m.rng, m.Origins)
	m.stamp += im.Stamp(m.rng.IntN(3) << 16)
	stamp := m.stamp - im.Stamp(m.rng.IntN(6)<<15) // clocks differ, and ties happen
	sender := pick(m.rng, m.Users)
	r := im.Record{
		ID:      im.ID{Conversation: m.conversation(sender), Sender: sender, ClientID: m.clientID()},
		Version: im.CurrentVersion, Place: im.Place{Stamp: stamp, Origin: o},
	}
	if m.rng.IntN(8) == 0 {
		r.Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	}
	group := r.Conversation.Members() == nil
	switch n := m.rng.IntN(100); {
	case n < 20 && len(m.sent) > 0: // a client tries again, here or elsewhere
		again := pick(m.rng, m.sent)
		if m.rng.IntN(2) == 0 {
			r.Place.Origin = again.Place.Origin
		}
		r.Place.Stamp -= im.Stamp(m.rng.IntN(40) << 15)
		again.Place = r.Place
		r = again
		o = r.Place.Origin
	case n < 28 && group:
		r.Kind, r.Body = im.KindCreate, m.body(&wire.Create{Title: m.text(), Members: m.names()})
	case n < 40 && group:
		r.Kind, r.Body = im.KindMember, m.body(&wire.Member{Add: m.names(), Remove: m.names()})
	case n < 48 && group:
		r.Kind, r.Body = im.KindSettings, m.body(&wire.Settings{Title: m.text()})
	case n < 55:
		m.cursors(r)
		return
	case n < 58:
		r.Kind, r.Body = "reaction", []byte{0xff, 0x00, 0x80}
	case n < 61:
		r.Kind, r.Version, r.Body = im.KindMessage, im.CurrentVersion+1, []byte("from the future")
	case n < 72:
		m.malformed(r)
		return
	case n < 75:
		name := im.LogName{Origin: o, ID: fixedUUID(uint64(o[0]), 0)}
		m.append(pick(m.rng, m.of(o)), wire.EncodeLogName(im.KindHeartbeat, name, m.stamp))
		return
	default:
		r.Kind, r.Body = im.KindMessage, m.body(&wire.Text{Text: m.text()})
	}
	m.sent = append(m.sent, r)
	m.append(m.home(r.Conversation, o), wire.EncodeRecord(&r))
}

// malformed appends what no accept would: apply numbers it like any other build would, and shows it to no one.
func (m *maker) malformed(r im.Record) {
	o := r.Place.Origin
	r.Kind, r.Body = im.KindMessage, m.body(&wire.Text{Text: "malformed"})
	p := m.home(r.Conversation, o)
	e := wire.EncodeRecord(&r)
	header := func(key string, value []byte) {
		e.Headers = slices.DeleteFunc(slices.Clone(e.Headers), func(h im.Header) bool { return h.Key == key })
		if value != nil {
			e.Headers = append(e.Headers, im.Header{Key: key, Value: value})
		}
	}
	switch m.rng.IntN(10) {
	case 0: // the value does not decode
		e.Value = []byte{0xff, 0xff, 0x00}
	case 1: // the body does not
		r.Body = []byte{0xff, 0x00}
		e = wire.EncodeRecord(&r)
	case 2: // a sender that cannot be
		r.Sender = "a\x00b"
		e = wire.EncodeRecord(&r)
	case 3: // a client_id of a wrong length
		e.Value = append(slices.Clone(e.Value), 0x12, 0x01, 0x07)
	case 4:
		header("c", []byte("d:bob:ann\x00"))
	case 5:
		header("k", []byte("Mess\xffage"))
	case 6:
		header("k", nil)
	case 7:
		header("s", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		header("t", []byte("\x00\xff"))
	case 8: // in a partition that is not its conversation's
		p.Number = (p.Number + 1) % m.Count
	case 9: // in another lane
		p.Topic = im.MsgTopic(o, im.LaneSuper)
		e.Headers = append(e.Headers, im.Header{Key: "zz", Value: []byte("unknown")})
	}
	m.append(p, e)
}

func (m *maker) cursors(r im.Record) {
	c := wire.Cursors{Conversation: r.Conversation, UID: r.Sender}
	for _, o := range m.Origins {
		for _, cursor := range []*im.Cursor{&c.Delivered, &c.Read} {
			if n := m.rng.IntN(6); n > 0 {
				*cursor = cursor.Merge(im.Cursor{o: uint64(n)})
			}
		}
	}
	e := wire.EncodeCursors(c, r.Place.Origin, r.Place.Stamp)
	if m.rng.IntN(10) == 0 {
		e.Value = []byte{0xff, 0x00}
	}
	m.append(im.Partition{Topic: im.ReadTopic(r.Place.Origin), Number: wire.Partition(string(r.Conversation), m.Count)}, e)
}

func (m *maker) home(c im.Conversation, o im.Origin) im.Partition {
	return im.Partition{Topic: im.MsgTopic(o, c.Lane()), Number: wire.Partition(string(c), m.Count)}
}

func (m *maker) of(o im.Origin) []im.Partition {
	return slices.DeleteFunc(m.Partitions(), func(p im.Partition) bool { return p.Origin() != o })
}

func (m *maker) conversation(sender im.UID) im.Conversation {
	if m.rng.IntN(2) == 0 {
		return pick(m.rng, m.Groups)
	}
	return im.Direct(sender, pick(m.rng, m.Users))
}

func (m *maker) clientID() im.UUID {
	m.next++
	return fixedUUID(0xc0de, m.next)
}

func (m *maker) names() []string {
	var names []string
	for _, u := range m.Users {
		if m.rng.IntN(4) == 0 {
			names = append(names, string(u))
		}
	}
	if m.rng.IntN(12) == 0 {
		names = append(names, "not a uid", "x\x00y")
	}
	return names
}

func (m *maker) text() string {
	return fmt.Sprintf("text %d \x00 é", m.rng.IntN(1000))
}

func (m *maker) body(b proto.Message) []byte {
	encoded, err := wire.Marshal(b)
	if err != nil {
		panic(err)
	}
	return encoded
}

// Copy returns a partition as it may stand in another region: with origin offsets and local ones, with stretches twice,
// and with later stretches before earlier ones, but so that a reader that takes only the next one gets everything.
func (l *Logs) Copy(rng *rand.Rand, p im.Partition) []im.Entry {
	log := l.Entries[p]
	var copied []im.Entry
	f := im.Follower{}
	at := 0
	for f.Next < int64(len(log)) {
		switch rng.IntN(8) {
		case 0: // a second writer, or an append that timed out but landed
			at = max(0, at-rng.IntN(4))
		case 1: // a gap
			at = min(len(log)-1, at+rng.IntN(3))
		case 2: // filled
			at = int(f.Next)
		}
		if at >= len(log) {
			at = int(f.Next)
		}
		e := wire.AsCopy(log[at], int64(at), 0)
		e.Offset = int64(len(copied))
		copied = append(copied, e)
		f.See(int64(at), 0, false)
		at++
	}
	return copied
}
