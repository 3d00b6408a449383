package gateway

import (
	"context"
	"slices"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// TestInterest: however many sessions are in a group, routers hear of it once, a push to it reaches each of them, and
// the last one that leaves takes it along.
func TestInterest(t *testing.T) {
	var put []im.Claim
	number := uint64(100)
	shed := 0
	i := newInterests("eu", "g1", func() uint64 { number++; return number },
		func(c im.Claim) bool { put = append(put, c); return true }, func(string) { shed++ })
	said := func(what string, want ...im.Claim) {
		t.Helper()
		if !slices.Equal(put, want) {
			t.Fatalf("%s: claims %+v, want %+v", what, put, want)
		}
		put = nil
	}
	in := func(conn uint64) (n int) {
		i.each(conn, func(*session) { n++ })
		return n
	}
	ann, bob := new(session), new(session)
	crowd, news := im.UID("s:eu:crowd"), im.UID("s:us:news")
	crowdRoute := im.Claim{UID: crowd, Device: "eu/g1", Conn: 101, Login: 7}
	newsRoute := im.Claim{UID: news, Device: "eu/g1", Conn: 102, Login: 7}
	release := func(c im.Claim) im.Claim { c.Release = true; return c }

	i.join(ann, []im.UID{crowd}, 7)
	said("the first", crowdRoute)
	i.join(bob, []im.UID{crowd, news}, 7)
	i.join(ann, []im.UID{crowd}, 7)
	said("another", newsRoute)
	if in(101) != 2 || in(102) != 1 || in(1) != 0 {
		t.Fatalf("%d in the crowd, %d in the news", in(101), in(102))
	}
	all := i.claims(8)
	slices.SortFunc(all, func(a, b im.Claim) int { return int(a.Conn) - int(b.Conn) })
	crowdRoute.Login, newsRoute.Login = 8, 8
	if !slices.Equal(all, []im.Claim{crowdRoute, newsRoute}) {
		t.Fatalf("claimed anew under the next epoch: %+v", all)
	}
	i.leave(ann, []im.UID{crowd, news}, 8)
	said("one of two leaves")
	i.drop(bob, 8)
	said("the last ends", release(crowdRoute), release(newsRoute))
	if in(101) != 0 || len(i.claims(8)) != 0 || len(i.of) != 0 {
		t.Fatal("something is left")
	}
	i.join(ann, []im.UID{crowd}, 8)
	crowdRoute.Conn = 103 // another number: a release that comes late takes nothing away
	said("joined again", crowdRoute)
	bob.ended = im.CodeIdle
	i.join(bob, []im.UID{news}, 8)
	said("one that ended")
	var many []im.UID
	for n := range maxInterests + 5 {
		many = append(many, im.UID("s:eu:"+string(rune('a'+n))))
	}
	i.join(ann, many, 8)
	if len(i.of[ann]) != maxInterests || shed != 1 {
		t.Fatalf("one session is in %d groups, %d shed", len(i.of[ann]), shed)
	}
}

// TestGroupPush: a service's answer joins its caller to a group, and a push to the group's route reaches it until its
// session ends.
func TestGroupPush(t *testing.T) {
	r := newRig(t)
	group := im.UID("s:eu:crowd")
	r.backend.mu.Lock()
	r.backend.handle = func(_ context.Context, c im.Call) (im.CallResult, error) {
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
	for _, p := range []*peer{ann, bob} {
		p.send(submit(1, "s:eu:crowd", "x"))
		expect(p, (*wire.Frame).GetReply)
	}
	eventually(t, "the group is claimed", func() bool { return len(ofGroup()) == 1 })
	conn := ofGroup()[0].Conn
	r.push("hello", conn)
	ann.expectPush(1, "hello")
	bob.expectPush(1, "hello")
	r.push("eve only", 3)
	out.expectPush(1, "eve only")

	for i, p := range []*peer{ann, bob} {
		p.send(&wire.Bye{})
		eventually(t, "the session is gone", func() bool { return r.g.hub.size() == 2-i })
	}
	eventually(t, "the group is released, once", func() bool {
		claims := ofGroup()
		return len(claims) == 2 && claims[1].Release && claims[1].Conn == conn
	})
	if len(r.routers.toGateway().Claims()) != 1 {
		t.Error("a group that nobody is in would be claimed anew")
	}
}
