package simulator

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/wire"
)

// silence is how long an origin may say nothing before its routes do not count. It is longer than between heartbeats.
const silence = 3 * time.Minute

// router is a region's router: it knows all routes, from all origins' logs.
type router struct {
	*proc
	r       *region
	table   *routes.Table
	at      map[string]int64
	expect  map[string]int64 // where the logs ended when it began
	polling bool
	down    map[im.Gateway]bool // declared, by its own view
	found   []routes.Target
}

func newRouter(r *region, p *proc) *router {
	o := &router{proc: p, r: r}
	p.crash = o.forget
	p.start = o.begin
	o.forget()
	return o
}

func (o *router) forget() {
	o.table, o.at, o.polling, o.down = nil, nil, false, map[im.Gateway]bool{}
}

// begin reads the logs from their start; nothing counts before where they end now.
func (o *router) begin() {
	t, err := routes.New(o.r.name, o.r.followed(), 1, silence)
	must(err)
	o.table, o.at, o.expect = t, map[string]int64{}, map[string]int64{}
	for _, origin := range t.Origins() {
		for _, p := range t.Partitions(origin) {
			l := o.r.log(p.Topic)
			t.Jump(p, 0)
			if o.w.Bug != BugRoutesCountEarly {
				t.Expect(p, int64(len(l.entries)))
			} else {
				t.Expect(p, 0)
			}
			o.at[p.Topic], o.expect[p.Topic] = 0, int64(len(l.entries))
		}
	}
	o.wake()
	o.after(o.dice.between(0, heartbeatEvery), o.beat)
	o.after(5*second, o.watch)
}

func (o *router) wake() {
	if o.up && !o.polling {
		o.polling = true
		o.after(o.dice.between(2*ms, 20*ms), o.poll)
	}
}

func (o *router) poll() {
	o.polling = false
	for _, origin := range o.table.Origins() {
		for _, p := range o.table.Partitions(origin) {
			l := o.r.log(p.Topic)
			n := int64(len(l.entries)) - o.at[p.Topic]
			if n > 15 {
				n = 15
				o.wake()
			}
			if n == 0 {
				continue
			}
			entries := make([]routes.Entry, n)
			for i := range entries {
				entries[i] = o.decode(&l.entries[o.at[p.Topic]+int64(i)], origin)
			}
			o.at[p.Topic] += n
			for i := range entries {
				if e := &entries[i]; e.Kind == im.KindGatewayDown {
					o.down[e.Route.Gateway] = true
				}
			}
			o.w.Bug.misroute(entries)
			res := o.table.Apply(p, entries, o.stamp())
			for _, gw := range res.Down {
				o.say("%s/%d is down", gw.ID, gw.Epoch)
				if g := o.r.gatewayOf(gw); g != nil {
					g.fenced()
				}
			}
			for _, k := range res.Kicks {
				o.w.stats.Kicks++
				o.say("kicks conn %d of %s/%d, login %d: %s", k.Conn, k.Gateway.ID, k.Gateway.Epoch, k.Login, k.Code)
				if g := o.r.gatewayOf(k.Gateway); g != nil {
					g.kick(k.Conn, k.Login, k.Code)
				}
			}
		}
	}
}

// decode reads an entry as a router does.
func (o *router) decode(e *im.Entry, origin im.Origin) routes.Entry {
	h := wire.DecodeHead(e)
	out := routes.Entry{Local: e.Offset, Generation: h.Generation}
	out.Kind = h.Kind
	out.Route = im.Route{Region: origin.Region(), Offset: h.OriginOffset, Claimed: h.Stamp}
	switch h.Kind {
	case im.KindClaim, im.KindRelease, im.KindGatewayDown:
		route, err := wire.DecodeRoute(e, h)
		must(err)
		route.Region = origin.Region()
		out.Route = route
	}
	return out
}

// claim writes a claim or a release; done is called when it is in the log.
func (o *router) claim(gw im.Gateway, c im.Claim, done func(ok bool)) {
	if o.r.sealed {
		done(false)
		return
	}
	kind := im.KindClaim
	if c.Release {
		kind = im.KindRelease
	}
	e := wire.EncodeRoute(kind, im.Route{
		UID: c.UID, Device: c.Device, Platform: c.Platform, Gateway: gw, Conn: c.Conn, Login: c.Login, Claimed: o.stamp(), Offline: c.Offline,
	}, o.r.origin)
	o.r.appendTo(o.proc, o.r.log(im.RouteTopic(o.r.origin)), []im.Entry{e}, nil, func(_ int64, ok bool) { done(ok) })
}

// watch declares gateways that are gone, until that is in the log.
func (o *router) watch() {
	o.after(15*second, o.watch)
	if o.table == nil || o.r.sealed || !o.table.Ready(o.r.origin) {
		return
	}
	for _, gw := range o.table.Lives(0) {
		alive := false
		for _, g := range o.r.gateways {
			alive = alive || g.up && g.id == gw
		}
		if !alive {
			o.say("declares %s/%d down", gw.ID, gw.Epoch)
			e := wire.EncodeRoute(im.KindGatewayDown, im.Route{Gateway: gw, Claimed: o.stamp()}, o.r.origin)
			o.r.appendTo(o.proc, o.r.log(im.RouteTopic(o.r.origin)), []im.Entry{e}, nil, func(int64, bool) {})
		}
	}
}

func (o *router) beat() {
	o.after(heartbeatEvery, o.beat)
	if l := o.r.log(im.RouteTopic(o.r.origin)); !o.r.sealed && o.w.now <= lastBeat {
		o.r.appendTo(o.proc, l, []im.Entry{wire.EncodeLogName(im.KindHeartbeat, l.name, o.stamp())}, nil, func(int64, bool) {})
	}
}

// deliver finds where recipients are: pushes to those here, and tells the regions of those elsewhere.
func (o *router) deliver(deliveries []im.Delivery, tell bool) {
	now := o.stamp()
	var pushes [2][]push
	var abroad [regionCount][]im.Delivery
	var counts [regionCount]bool // its routes were found to count
	for i := range deliveries {
		d := &deliveries[i]
		var event *wire.Record
		for _, uid := range d.Recipients {
			o.found = o.table.Targets(o.found[:0], uid, now)
			for j := range o.found {
				route := &o.found[j]
				home := o.w.called(route.Region)
				counts[home.i] = counts[home.i] || o.counts(home, uid)
				if home != o.r {
					if tell && d.Notify {
						out := *d
						out.Recipients, out.Notify = []im.UID{uid}, false
						abroad[home.i] = append(abroad[home.i], out)
					}
					continue
				}
				if o.down[route.Gateway] {
					o.w.violate("I10", "%s uses the route of %s to %s/%d, which it has read to be down", o.name, uid, route.Gateway.ID, route.Gateway.Epoch)
				}
				if event == nil {
					event = o.w.decode(d.Body)
				}
				if event == nil { // a receipt
					continue
				}
				if g := o.r.gatewayOf(route.Gateway); g != nil {
					pushes[g.n] = append(pushes[g.n], push{route.Conn, event})
				}
			}
		}
	}
	for n := range pushes {
		if len(pushes[n]) > 0 {
			g := o.r.gateways[n]
			o.w.push(o.dice.between(200, 2*ms), g.proc, func() { g.push(pushes[n]) })
		}
	}
	for i, out := range abroad {
		if len(out) == 0 || o.dice.chance(o.w.garble[o.r.i][i]) {
			continue // notifies may be lost
		}
		peer := o.w.regions[i]
		if d, ok := o.w.wan(o.r, peer, &o.dice); ok {
			o.w.push(d, peer.router.proc, func() { peer.router.deliver(out, false) })
		}
	}
}

// counts judges that a route to a region is used: all of its log has to be read that there was at the start.
func (o *router) counts(home *region, uid im.UID) bool {
	topic := im.RouteTopic(home.origin)
	if o.at[topic] >= o.expect[topic] {
		return true
	}
	o.w.violate("I10", "%s uses a route of %s to %s, but has read %s up to %d of %d only", o.name, uid, home.name, topic, o.at[topic], o.expect[topic])
	return false
}

// push is an event for one conn.
type push struct {
	conn  uint64
	event *wire.Record
}

// decode returns the record of an event, nil for another. What regions push of one record differs in who pushes it alone,
// so most are decoded already.
func (w *world) decode(event []byte) *wire.Record {
	number, kind, n := protowire.ConsumeTag(event)
	if n < 0 || number != 1 || kind != protowire.BytesType {
		return nil
	}
	body, m := protowire.ConsumeBytes(event[n:])
	if m < 0 {
		panic("an event that does not decode")
	}
	if r, ok := w.decoded[string(body)]; ok {
		return r
	}
	r := new(wire.Record)
	must(wire.Unmarshal(body, r))
	if len(w.decoded) > 2000 {
		clear(w.decoded)
	}
	w.decoded[string(body)] = r
	return r
}

// gateway holds the sockets of devices.
type gateway struct {
	*proc
	r     *region
	n     int
	id    im.Gateway
	conns map[uint64]*device
	count uint64
}

func newGateway(r *region, n int, p *proc) *gateway {
	g := &gateway{proc: p, r: r, n: n, id: im.Gateway{ID: p.name}}
	p.crash = g.drop
	p.start = func() { g.id.Epoch++ }
	g.conns = map[uint64]*device{}
	return g
}

// drop loses every socket.
func (g *gateway) drop() {
	for _, d := range g.w.devices { // in an order
		if d.gateway == g {
			d.region = g.w.regions[g.dice.n(regionCount)] // it takes whatever ipconf names next
			d.lose("its gateway is gone")
		}
	}
	g.conns = map[uint64]*device{}
}

// fenced says that this life was declared down: it takes a new epoch, and its sockets log in again.
func (g *gateway) fenced() {
	g.drop()
	g.id.Epoch++
}

// gatewayOf is the gateway that is in a life, nil if none is.
func (r *region) gatewayOf(gw im.Gateway) *gateway {
	for _, g := range r.gateways {
		if g.up && g.id == gw {
			return g
		}
	}
	return nil
}

func (g *gateway) kick(conn, login uint64, code im.Code) {
	if d := g.conns[conn]; d != nil && d.conn == conn && d.gateway == g && d.login == login {
		delete(g.conns, conn)
		if code == im.CodeReplaced { // by itself, of course
			g.w.violate("I10", "%s was told that login %d was replaced, but it never made a higher one", d.name, login)
		}
		d.lose("kicked: " + string(code))
	}
}

func (g *gateway) push(all []push) {
	for i := range all {
		d := g.conns[all[i].conn]
		if d == nil || d.gateway != g || d.conn != all[i].conn {
			continue
		}
		if g.r.deaf > 0 && g.dice.chance(g.r.deaf) {
			continue
		}
		d.event(all[i].event)
	}
}
