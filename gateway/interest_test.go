package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// crowd is a group's interest in memory: what is put is taken, what is handed on is noted.
type crowd struct {
	*interests
	put    []im.Claim
	done   []func(bool)
	sheds  int
	handed []string
	names  map[*session]string
	ask    *interest
}

func newCrowd() *crowd {
	c := &crowd{names: map[*session]string{}}
	number := uint64(100)
	c.interests = newInterests("eu", "g1", func() uint64 { number++; return number },
		func(claim im.Claim, done func(bool)) bool {
			c.put, c.done = append(c.put, claim), append(c.done, done)
			return true
		}, func(string) { c.sheds++ })
	c.hand = func(s *session, p *groupPush, _ bool) {
		c.handed = append(c.handed, fmt.Sprintf("%s to %s", p.push.Trace(), c.names[s]))
	}
	return c
}

func (c *crowd) session(name string) *session {
	s := &session{uid: im.UID(name)}
	c.names[s] = name
	return s
}

// TestInterest: however many sessions are in a group, routers hear of it once, and the last one that leaves takes it along.
func TestInterest(t *testing.T) {
	c := newCrowd()
	said := func(what string, want ...im.Claim) {
		t.Helper()
		if !slices.Equal(c.put, want) {
			t.Fatalf("%s: claims %+v, want %+v", what, c.put, want)
		}
		c.put = nil
	}
	ann, bob := c.session("ann"), c.session("bob")
	crowd, news := im.UID("s:eu:crowd"), im.UID("s:us:news")
	crowdRoute := im.Claim{UID: crowd, Device: "eu/g1", Conn: 101, Login: 7}
	newsRoute := im.Claim{UID: news, Device: "eu/g1", Conn: 102, Login: 7}
	release := func(c im.Claim) im.Claim { c.Release = true; return c }

	c.join(ann, []im.UID{crowd}, 7)
	said("the first", crowdRoute)
	c.join(bob, []im.UID{crowd, news}, 7)
	c.join(ann, []im.UID{crowd}, 7)
	said("another", newsRoute)
	if c.byConn(101).group != crowd || c.byConn(102).group != news || c.byConn(1) != nil {
		t.Fatal("conns do not stand for their groups")
	}
	all := c.claims(8)
	slices.SortFunc(all, func(a, b im.Claim) int { return int(a.Conn) - int(b.Conn) })
	crowdRoute.Login, newsRoute.Login = 8, 8
	if !slices.Equal(all, []im.Claim{crowdRoute, newsRoute}) {
		t.Fatalf("claimed anew under the next epoch: %+v", all)
	}
	c.drop(ann, 8)
	said("one of two ends")
	c.drop(bob, 8)
	said("the last ends", release(crowdRoute), release(newsRoute))
	if c.byConn(101) != nil || len(c.claims(8)) != 0 || len(c.of) != 0 {
		t.Fatal("something is left")
	}
	c.join(ann, []im.UID{crowd}, 8)
	crowdRoute.Conn = 103 // another number: a release that comes late takes nothing away
	said("joined again", crowdRoute)
	bob.ended = im.CodeIdle
	c.join(bob, []im.UID{news}, 8)
	said("one that ended")
	var many []im.UID
	for n := range maxInterests + 5 {
		many = append(many, im.UID("s:eu:"+string(rune('a'+n))))
	}
	c.join(ann, many, 8)
	if len(c.of[ann]) != maxInterests || c.sheds != 1 {
		t.Fatalf("one session is in %d groups, %d shed", len(c.of[ann]), c.sheds)
	}
}

// TestInterestIsClaimed: a claim that routers did not take is made again while somebody is in the group. Who joined before it
// was taken may have missed what was pushed meanwhile, and is told.
func TestInterestIsClaimed(t *testing.T) {
	c := newCrowd()
	ann, bob, eve := c.session("ann"), c.session("bob"), c.session("eve")
	c.join(ann, []im.UID{"s:eu:crowd"}, 7)
	c.done[0](false)
	if len(c.put) != 2 || c.put[1] != c.put[0] {
		t.Fatalf("claims %+v", c.put)
	}
	c.join(bob, []im.UID{"s:eu:crowd"}, 7)
	c.done[1](true)
	c.join(eve, []im.UID{"s:eu:crowd"}, 7)
	if !ann.missed || !bob.missed || eve.missed {
		t.Errorf("told that they missed something: ann %t, bob %t, eve %t", ann.missed, bob.missed, eve.missed)
	}
	c.drop(ann, 7)
	c.drop(bob, 7)
	c.drop(eve, 7)
	c.done[0](false)
	if len(c.put) != 3 || !c.put[2].Release {
		t.Fatalf("claims %+v: a group that nobody is in was claimed again", c.put)
	}
}

// begin is a crowd of which this gateway knows everything: ann and bob are in as of eu=2.
func begin(t *testing.T) (c *crowd, ann, bob *session) {
	t.Helper()
	c = newCrowd()
	ann, bob = c.session("ann"), c.session("bob")
	c.join(ann, []im.UID{"s:eu:crowd"}, 7)
	c.join(bob, []im.UID{"s:eu:crowd"}, 7)
	c.ask = c.byConn(101)
	c.pushes("first", at(3), changes(2))
	c.answers(t, time.Time{}, changes(2), map[im.UID]im.Place{"ann": at(1), "bob": at(2)})
	c.gave(t, "first to ann", "first to bob")
	return c, ann, bob
}

func at(seq uint64) im.Place { return im.Place{Stamp: im.Stamp(seq), Origin: "eu", Seq: seq} }

func changes(eu uint64) im.Cursor { return im.Cursor{"eu": eu} }

func (c *crowd) pushes(name string, place im.Place, known im.Cursor) {
	c.take(c.ask, groupPush{push: wire.PreparePush("im", "event", nil, name), interest: &im.Interest{Place: place, Changes: known}})
}

// answers gives the service's answer about everybody that is asked about.
func (c *crowd) answers(t *testing.T, now time.Time, known im.Cursor, members map[im.UID]im.Place) (done, further bool) {
	t.Helper()
	_, asked := c.ask.pick()
	return c.told(c.ask, asked, im.Roll{Changes: known, Members: members}, nil, now, 7)
}

// gave compares what was handed on since.
func (c *crowd) gave(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(c.handed)
	if !slices.Equal(c.handed, want) {
		t.Fatalf("handed on %q, want %q", c.handed, want)
	}
	c.handed = nil
}

func (c *crowd) asks(t *testing.T, want ...string) {
	t.Helper()
	_, asked := c.ask.pick()
	var names []string
	for _, s := range asked {
		names = append(names, c.names[s])
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Fatalf("asks about %q, want %q", names, want)
	}
}

// TestRemovedMemberGetsNothing: a push made with a removal known is handed to nobody before the service said who is left,
// whether the removal itself came before it, comes after it, or never comes.
func TestRemovedMemberGetsNothing(t *testing.T) {
	members := map[im.UID]im.Place{"ann": at(1)}
	removal := &im.Interest{Place: at(4), Changes: changes(4), Before: changes(2), Changed: []im.UID{"bob"}}
	push := func(c *crowd, name string, in *im.Interest) {
		c.take(c.ask, groupPush{push: wire.PreparePush("im", "event", nil, name), interest: in})
	}
	t.Run("in order", func(t *testing.T) {
		c, _, _ := begin(t)
		push(c, "removal", removal)
		c.pushes("next", at(5), changes(4))
		c.gave(t)
		c.asks(t, "bob") // nobody else is concerned
		c.answers(t, time.Time{}, changes(4), members)
		c.gave(t, "next to ann", "removal to ann")
		c.pushes("third", at(6), changes(4))
		c.gave(t, "third to ann")
	})
	t.Run("overtaken", func(t *testing.T) {
		c, _, _ := begin(t)
		c.pushes("next", at(5), changes(4))
		push(c, "removal", removal)
		c.gave(t)
		c.asks(t, "bob")
		c.answers(t, time.Time{}, changes(4), members)
		c.gave(t, "next to ann", "removal to ann")
	})
	t.Run("lost", func(t *testing.T) {
		c, _, bob := begin(t)
		c.pushes("next", at(5), changes(4))
		c.answers(t, time.Time{}, changes(4), members)
		c.gave(t, "next to ann")
		if _, in := c.of[bob]; in {
			t.Error("bob's session is still in a group")
		}
	})
	t.Run("of the last one", func(t *testing.T) {
		c, ann, _ := begin(t)
		c.drop(ann, 7)
		c.put = nil
		c.pushes("next", at(5), changes(4))
		if done, _ := c.answers(t, time.Time{}, changes(4), nil); !done {
			t.Error("it asks on")
		}
		c.gave(t)
		if len(c.put) != 1 || !c.put[0].Release {
			t.Errorf("claims %+v, want the group's release", c.put)
		}
	})
	t.Run("by an answer from a time before", func(t *testing.T) {
		c, _, _ := begin(t)
		push(c, "removal", removal)
		c.answers(t, time.Time{}, changes(2), map[im.UID]im.Place{"ann": at(1), "bob": at(2)})
		c.gave(t)
		c.answers(t, time.Time{}, changes(4), members)
		c.gave(t, "removal to ann")
	})
}

// TestAddedMemberGetsWhatFollows: a session that joins gets what stands at or after the place where its user was added, and
// nothing before, however late that comes.
func TestAddedMemberGetsWhatFollows(t *testing.T) {
	c, _, _ := begin(t)
	eve := c.session("eve")
	c.take(c.ask, groupPush{push: wire.PreparePush("im", "event", nil, "eve is added"), interest: &im.Interest{
		Place: at(4), Changes: changes(4), Before: changes(2), Changed: []im.UID{"eve"},
	}})
	c.gave(t, "eve is added to ann", "eve is added to bob") // eve has it by her own route
	c.join(eve, []im.UID{"s:eu:crowd"}, 7)
	c.pushes("next", at(5), changes(4))
	c.asks(t, "eve")
	c.answers(t, time.Time{}, changes(4), map[im.UID]im.Place{"eve": at(4)})
	c.gave(t, "next to ann", "next to bob", "next to eve")
	c.pushes("late", at(3), changes(2))
	c.gave(t, "late to ann", "late to bob")
}

// TestPushAheadOfItsRegion: a push of another region's router may know of changes that the own region does not know yet. It
// holds up nobody else, and is dropped after a while: the log brings it.
func TestPushAheadOfItsRegion(t *testing.T) {
	c, ann, _ := begin(t)
	abroad := im.Cursor{"eu": 2, "us": 9}
	c.pushes("ahead", at(4), abroad)
	c.pushes("next", at(5), changes(2))
	members := map[im.UID]im.Place{"ann": at(1), "bob": at(2)}
	if done, further := c.answers(t, time.Time{}, changes(2), members); done || further {
		t.Error("it does not wait and ask again")
	}
	c.gave(t, "next to ann", "next to bob")
	if done, _ := c.answers(t, time.Time{}.Add(rollTime+1), changes(2), members); !done {
		t.Error("it waits on")
	}
	c.gave(t)
	if ann.missed {
		t.Error("clients were told to pull what their region does not have")
	}
}

// TestNobodySaysWhoIsIn: when the service does not answer in time, nothing is handed on, and clients are told to pull.
func TestNobodySaysWhoIsIn(t *testing.T) {
	c, ann, bob := begin(t)
	c.pushes("next", at(5), changes(4))
	_, asked := c.ask.pick()
	if done, _ := c.told(c.ask, asked, im.Roll{}, errors.New("down"), time.Time{}, 7); done {
		t.Error("it gives up at once")
	}
	if done, _ := c.told(c.ask, asked, im.Roll{}, errors.New("down"), time.Time{}.Add(rollTime+1), 7); !done {
		t.Error("it waits on")
	}
	c.gave(t)
	if !ann.missed || !bob.missed {
		t.Error("clients are not told")
	}
}

// TestRollInPieces: of many sessions the service is asked piece by piece, and nothing is handed on before all are known as of
// one and the same changes.
func TestRollInPieces(t *testing.T) {
	c := newCrowd()
	members := map[im.UID]im.Place{}
	for n := range 2*maxRoll + 1 {
		s := c.session(fmt.Sprint("user", n))
		c.join(s, []im.UID{"s:eu:crowd"}, 7)
		members[s.uid] = at(1)
	}
	c.ask = c.byConn(101)
	c.pushes("first", at(5), changes(2))
	known := uint64(2)
	for rounds := 1; ; rounds++ {
		if rounds == 2 {
			known = 3 // a change in between: what the first piece said may not hold any more
		}
		done, further := c.answers(t, time.Time{}, changes(known), members)
		if done {
			if rounds != 4 {
				t.Errorf("%d rounds", rounds)
			}
			break
		}
		if !further || len(c.handed) > 0 {
			t.Fatalf("round %d: further %t, %d handed on", rounds, further, len(c.handed))
		}
	}
	if len(c.handed) != len(members) {
		t.Errorf("handed to %d of %d", len(c.handed), len(members))
	}
}

// TestWaitingIsBounded: what waits beyond the bound is dropped, and clients are told.
func TestWaitingIsBounded(t *testing.T) {
	c, ann, _ := begin(t)
	for n := range maxWaiting + 1 {
		c.pushes(fmt.Sprint("push ", n), at(5), changes(4))
	}
	if len(c.ask.waiting) != 0 || c.ask.bytes != 0 || !ann.missed {
		t.Errorf("%d wait, %d bytes; told: %t", len(c.ask.waiting), c.ask.bytes, ann.missed)
	}
	if done, _ := c.answers(t, time.Time{}, changes(4), nil); !done {
		t.Error("it asks on")
	}
}

// TestGroupPush: a service's answer joins its caller to a group, and a push to the group's route reaches those who are in,
// until they are removed or end. A push that does not say for whom it is reaches nobody.
func TestGroupPush(t *testing.T) {
	r := newRig(t)
	group := im.UID("s:eu:crowd")
	roll := im.Roll{Changes: changes(1), Members: map[im.UID]im.Place{"ann": at(1), "bob": at(1)}}
	r.backend.mu.Lock()
	r.backend.handle = func(_ context.Context, c im.Call) (im.CallResult, error) {
		if c.Method == wire.MethodRoll {
			r.backend.mu.Lock()
			defer r.backend.mu.Unlock()
			if c.UID != "" || c.Key != string(group) || c.Service != "im" {
				return im.CallResult{}, im.Errorf(im.CodeBadRequest, "%+v", c)
			}
			body, err := wire.EncodeRoll(roll)
			return im.CallResult{Body: body}, err
		}
		result, err := r.backend.answer(c)
		result.Join = []im.UID{group}
		return result, err
	}
	r.backend.mu.Unlock()
	ofGroup := func() (claims []im.Claim) {
		for _, c := range r.routers.claimed() {
			if c.UID == group {
				claims = append(claims, c)
			}
		}
		return claims
	}
	sub := wire.Subprotocols()[0]
	ann, _ := r.login(sub, "ann", 1)
	bob, _ := r.login(sub, "bob", 1)
	out, _ := r.login(sub, "eve", 1)
	ann.expectJoined(1)
	for _, p := range []*peer{bob, out} {
		p.send(submit(1, "s:eu:crowd", "x"))
		expect(p, (*wire.Frame).GetReply)
	}
	conn := ofGroup()[0].Conn
	push := func(text string, in *im.Interest) {
		body, err := wire.Marshal(&wire.Event{From: text})
		if err != nil {
			t.Fatal(err)
		}
		r.routers.toGateway().Push([]im.Push{{Conns: []uint64{conn}, Service: "im", Method: "event", Body: body, Interest: in}})
	}
	push("to whom?", nil)
	push("hello", &im.Interest{Place: at(2), Changes: changes(1)})
	ann.expectPush(2, "hello")
	bob.expectPush(1, "hello")
	r.backend.mu.Lock()
	roll = im.Roll{Changes: changes(3), Members: maps.Clone(roll.Members)}
	delete(roll.Members, "bob")
	r.backend.mu.Unlock()
	push("bob is out", &im.Interest{Place: at(4), Changes: changes(3)})
	ann.expectPush(3, "bob is out")
	r.push("eve only", 3)
	out.expectPush(1, "eve only")
	bob.expectAlive()

	ann.send(&wire.Bye{})
	eventually(t, "the group is released, once", func() bool {
		claims := ofGroup()
		return len(claims) == 2 && claims[1].Release && claims[1].Conn == conn
	})
	if len(r.routers.toGateway().Claims()) != 2 {
		t.Error("a group that nobody is in would be claimed anew")
	}
}

// rollOf answers that a user is in, whatever the group.
func rollOf(uid im.UID) (im.CallResult, error) {
	body, err := wire.EncodeRoll(im.Roll{Changes: changes(1), Members: map[im.UID]im.Place{uid: at(1)}})
	return im.CallResult{Body: body}, err
}

// pushToGroup sends an event to a group.
func (r *rig) pushToGroup(text string, conn uint64) {
	r.t.Helper()
	body, err := wire.Marshal(&wire.Event{From: text})
	if err != nil {
		r.t.Fatal(err)
	}
	r.routers.toGateway().Push([]im.Push{{
		Conns: []uint64{conn}, Service: "im", Method: "event", Body: body, Interest: &im.Interest{Place: at(2), Changes: changes(1)},
	}})
}

// expectJoined makes a call whose answer brings the gateway its first session in a group. Besides the answer, and before or
// after it, the client is told that it may have missed something: no router knew of the group until then.
func (p *peer) expectJoined(id uint32) {
	p.t.Helper()
	p.send(submit(id, "s:eu:crowd", "x"))
	for answered, told := false, false; !answered || !told; {
		f, err := p.receive()
		if err != nil {
			p.t.Fatalf("the socket ended: %v", err)
		}
		switch {
		case f.GetReply().GetId() == id:
			answered = true
		case f.GetBehind().GetNumber() == 1:
			told = true
		default:
			p.t.Fatalf("got %v", f)
		}
	}
}

// TestJoinedByPush: a push may say that those it is for are in a group now.
func TestJoinedByPush(t *testing.T) {
	r := newRig(t)
	r.login(wire.Subprotocols()[0], "ann", 1)
	r.routers.toGateway().Push([]im.Push{{Conns: []uint64{1, 99}, Service: "im", Method: "event", Join: []im.UID{"s:eu:crowd"}}})
	eventually(t, "the group is claimed", func() bool { return r.routers.last().UID == "s:eu:crowd" })
}

// TestUninformed: once services say which groups sessions are in, clients are told to list of which none said it.
func TestUninformed(t *testing.T) {
	r := newRig(t)
	sub := wire.Subprotocols()[0]
	ann, _ := r.login(sub, "ann", 1)
	bob, _ := r.login(sub, "bob", 1)
	looks := func(times int) {
		for range times {
			for second := range informEvery {
				r.g.inform(second)
			}
		}
	}
	looks(2)
	r.backend.mu.Lock()
	r.backend.handle = func(_ context.Context, c im.Call) (im.CallResult, error) {
		result, err := r.backend.answer(c)
		result.All = true
		return result, err
	}
	r.backend.mu.Unlock()
	bob.send(submit(1, "d:ann:bob", "x"))
	expect(bob, (*wire.Frame).GetReply)
	looks(2)
	expect(ann, (*wire.Frame).GetBehind)
	bob.expectAlive()
	looks(2 * maxLooks)
	expect(ann, (*wire.Frame).GetBehind)
	r.push("x", 1)
	for {
		f, err := ann.receive()
		if err != nil {
			t.Fatal(err)
		}
		if p := f.GetPush(); p != nil {
			if p.Number > maxLooks+1 {
				t.Errorf("told %d times", p.Number-1)
			}
			break
		}
	}
}
