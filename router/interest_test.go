package router_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router"
)

// TestInterest: a delivery to a group is one push for each interested gateway of the region and one notify for each
// interested region, however many gateways it has there; interest ends with a release or with the gateway.
func TestInterest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := im.InterestIn("s:eu:0199a2c4-7f3e-7d11-8a52-3b6f0c9d1e24")
		eu, us := newRegion(t, "eu"), newRegion(t, "us")
		re, stop := run(t, eu.config(), eu.deps())
		defer stop()
		ru, stop := run(t, us.config(), us.deps())
		defer stop()
		ready(t, re)
		ready(t, ru)
		both := func() {
			ship(t, eu, us)
			ship(t, us, eu)
			synctest.Wait()
		}
		type gw struct {
			*router.Attachment
			out *outbox
		}
		enter := func(r *router.Router, region im.Region, n int) gw {
			a, out := attach(t, r, im.Gateway{ID: fmt.Sprint("g", n), Epoch: 7})
			claim(t, a, interestOf(group, region, n))
			return gw{a, out}
		}
		// As many as take the way for crowds in one region, and a few in the other.
		var here []gw
		for n := range 20 {
			here = append(here, enter(re, "eu", n))
		}
		there := []gw{enter(ru, "us", 0), enter(ru, "us", 1)}
		idle, idleOut := attach(t, ru, im.Gateway{ID: "idle", Epoch: 7})
		claim(t, idle, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
		both()

		// All are told whom of the group it is for.
		interest := &im.Interest{
			Place: im.Place{Stamp: 1, Origin: "eu", Seq: 3}, Changes: im.Cursor{"eu": 3}, Before: im.Cursor{"eu": 2}, Changed: []im.UID{"ann"},
		}
		message := []im.Delivery{{
			Service: "im", Method: "event", Key: string(group), Recipients: []im.UID{group}, Body: []byte("x"), Notify: true, Interest: interest,
		}}
		if n, err := re.Deliver(t.Context(), message); err != nil || n != 20 {
			t.Fatalf("deliver: %d pushes, %v", n, err)
		}
		synctest.Wait()
		once := func(all []gw, interest *im.Interest) {
			t.Helper()
			for i, g := range all {
				pushes, kicks, _ := g.out.got()
				if len(pushes) != 1 || !slices.Equal(pushes[0].Conns, []uint64{uint64(100 + i)}) || !reflect.DeepEqual(pushes[0].Interest, interest) || len(kicks) != 0 {
					t.Fatalf("gateway %d got pushes %+v, kicks %+v", i, pushes, kicks)
				}
			}
		}
		once(here, interest)
		sent := eu.peers.to("us")
		if len(sent) != 1 || !slices.Equal(sent[0].Recipients, []im.UID{group}) {
			t.Fatalf("notifies to us: %+v", sent)
		}
		if err := ru.Notify(t.Context(), "eu", sent); err != nil {
			t.Fatal(err)
		}
		once(there, &im.Interest{Place: interest.Place, Changes: interest.Changes}) // what changed, its own log will tell
		if pushes, _, _ := idleOut.got(); len(pushes) != 0 {
			t.Fatalf("pushes to a gateway that nobody of the group is at: %+v", pushes)
		}

		// One in us leaves, the other dies.
		left := interestOf(group, "us", 0)
		left.Release = true
		claim(t, there[0].Attachment, left)
		for range 30 {
			pass(time.Second)
			there[0].Heartbeat()
			idle.Heartbeat()
			for _, g := range here {
				g.Heartbeat()
			}
			both()
		}
		if _, err := re.Deliver(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if sent := eu.peers.to("us"); len(sent) != 1 {
			t.Fatalf("notifies to us, where nobody is interested any more: %+v", sent)
		}
	})
}

// TestEveryGatewayTakesInterest: a router says that large groups may be delivered to interest as long as each gateway that is
// attached to it said that it looks who is in.
func TestEveryGatewayTakesInterest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		r, stop := run(t, eu.config(), eu.deps())
		defer stop()
		ready(t, r)
		now, _ := attach(t, r, im.Gateway{ID: "now", Epoch: 1})
		now.Interest()
		if !r.Interest() {
			t.Error("the only gateway takes it, the router says no")
		}
		before, _ := attach(t, r, im.Gateway{ID: "before", Epoch: 1})
		if r.Interest() {
			t.Error("a gateway of an older version does not take it, the router says yes")
		}
		before.Close()
		if !r.Interest() {
			t.Error("the gateway that did not take it is gone, the router says no")
		}
	})
}

// interestOf is a gateway's claim of a group, as gateways make it.
func interestOf(group im.UID, region im.Region, n int) im.Claim {
	return im.Claim{UID: group, Device: im.DeviceID(fmt.Sprintf("%s/g%d", region, n)), Conn: uint64(100 + n), Login: 7}
}
