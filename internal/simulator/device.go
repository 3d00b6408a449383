package simulator

import (
	"fmt"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// device is one installation of one user. It never crashes: what a client keeps is its own business.
type device struct {
	*proc
	n       int
	uid     im.UID
	region  *region  // where it wants to be
	gateway *gateway // nil: no socket
	conn    uint64
	login   uint64
	session uint64 // of everything that one socket asked; 0: none
	seen    im.Stamp
	chats   []*chat
}

// chat is a conversation as a device has it.
type chat struct {
	d       *device
	n       int
	c       im.Conversation
	t       *timeline.Timeline
	queue   []*submission
	sending bool
	pulling bool
	again   bool
	pulls   int
	high    im.Stamp         // of what was shown
	given   map[im.UUID]bool // to the application
	acked   im.Stamp         // of the conn's last submit
	on      uint64           // the session of that
}

// submission is one record that a device is to send.
type submission struct {
	id      im.ID
	n       int
	request *wire.SubmitRequest
	tries   int
	acked   bool
	refused bool
	result  result
}

func newDevice(w *world, n int) *device {
	d := &device{n: n, uid: userName(w.plan.user(n)), region: w.regions[n%regionCount]}
	d.proc = &proc{w: w, id: regionCount*procsOf + n, name: fmt.Sprintf("%s/%d", d.uid, n), up: true, dice: split(w.Seed^w.Salt<<32, fmt.Sprint("device", n))}
	for i, c := range w.convs {
		d.chats = append(d.chats, &chat{d: d, n: i, c: c, t: timeline.New(c, timeline.Limits{}), given: map[im.UUID]bool{}})
	}
	d.after(d.dice.between(0, second), d.connect)
	d.after(d.dice.between(minute, 6*minute), d.poll)
	return d
}

func userName(n int) im.UID { return im.UID("u" + string(rune('0'+n))) }

// connect opens a socket with a higher login.
func (d *device) connect() {
	if d.gateway != nil {
		return
	}
	if d.region.lost {
		d.region = d.w.regions[d.dice.n(regionCount)]
	}
	g := d.region.gateways[d.dice.n(2)]
	if !g.up || d.region.lost || d.region.sealed {
		d.after(d.dice.between(200*ms, 2*second), d.connect)
		return
	}
	d.w.made++
	d.login++
	g.count++
	d.gateway, d.conn, d.session, d.seen = g, g.count, d.w.made, 0
	g.conns[d.conn] = d
	d.say("connects to %s/%d as conn %d, login %d", g.name, g.id.Epoch, d.conn, d.login)
	session, gw := d.session, g.id
	claim := im.Claim{UID: d.uid, Device: im.DeviceID(d.name), Platform: "web", Conn: d.conn, Login: d.login}
	router := d.region.router
	claimed := false
	d.w.push(d.dice.between(200, 2*ms), router.proc, func() {
		router.claim(gw, claim, func(ok bool) {
			if d.session == session && ok && router.r == d.region {
				claimed = true
				for _, c := range d.chats {
					c.pull()
					c.send()
				}
			}
		})
	})
	d.after(4*second, func() {
		if d.session == session && !claimed {
			d.lose("its claim was not answered")
		}
	})
}

// lose drops the socket; the gateway gives the route up after a while, and the device comes back.
func (d *device) lose(why string) {
	if d.gateway == nil {
		return
	}
	d.say("is disconnected: %s", why)
	g, router := d.gateway, d.gateway.r.router
	claim := im.Claim{UID: d.uid, Device: im.DeviceID(d.name), Platform: "web", Conn: d.conn, Login: d.login, Release: true}
	gw := g.id
	if g.up { // one that crashed gives nothing up
		d.w.push(d.dice.between(100*ms, 20*second), router.proc, func() { router.claim(gw, claim, func(bool) {}) })
	}
	delete(g.conns, d.conn)
	d.gateway, d.session = nil, 0
	for _, c := range d.chats {
		c.sending, c.pulling = false, false
	}
	d.after(d.dice.between(50*ms, 3*second), d.connect)
}

// poll pulls everything now and then, whatever was heard.
func (d *device) poll() {
	d.after(d.dice.between(3*minute, 6*minute), d.poll)
	for _, c := range d.chats {
		c.pull()
	}
}

// event takes what was pushed.
func (d *device) event(r *wire.Record) {
	for _, c := range d.chats {
		if string(c.c) == r.Conversation {
			c.push(r)
			return
		}
	}
}

func (c *chat) push(r *wire.Record) {
	w := c.d.w
	place := wire.RecordPlace(r)
	k := view.HeadKey{Conversation: c.c, Origin: place.Origin}
	if t := w.truth.at(k, place.Seq); t == nil {
		if _, sealed := w.seals[im.MsgTopic(place.Origin, c.c.Lane())]; !sealed {
			w.violate("I5", "%s was pushed %v of %s, which no log has", c.d.name, place, c.c)
		}
	} else if t.place != place || t.text != r.ClientId {
		w.violate("I5", "%s was pushed %v of %s as client_id %s: the log has %s at %v", c.d.name, place, c.c, r.ClientId, short(t.id), t.place)
	}
	changes, err := w.Bug.add(c, r)
	must(err)
	c.take(changes)
	if !c.t.Complete() && !c.pulling {
		session := c.d.session
		c.d.after(c.d.dice.between(50*ms, 500*ms), func() {
			if c.d.session == session && !c.t.Complete() {
				c.pull()
			}
		})
	}
}

// take gives the application what changed.
func (c *chat) take(changes []timeline.Change) {
	for i := range changes {
		m := &changes[i].Message
		c.high = max(c.high, m.Place.Stamp)
		if changes[i].Kind != timeline.Inserted {
			continue
		}
		before := len(c.given)
		if c.given[m.ClientID] = true; len(c.given) == before {
			c.d.w.violate("I6", "%s is given %s in %s twice", c.d.name, short(m.ID), c.c)
		}
	}
}

// pull asks a region for what the cursor does not cover: the own one, or now and then another.
func (c *chat) pull() {
	d := c.d
	if c.pulling || d.session == 0 {
		c.again = true
		return
	}
	c.pulling, c.again = true, false
	r := d.region
	if d.dice.chance(0.2) {
		r = d.w.regions[d.dice.n(regionCount)]
	}
	session := d.session
	c.pulls++
	number := c.pulls
	there, ok := d.w.net(d.region, r, &d.dice)
	if ok && !r.lost {
		d.w.push(there, nil, func() { c.serve(r, session) })
	}
	d.after(6*second, func() { // no answer
		if d.session == session && c.pulls == number {
			c.pulling = false
			if c.again || !c.t.Complete() {
				c.pull()
			}
		}
	})
}

// serve answers a pull.
func (c *chat) serve(r *region, session uint64) {
	d, w := c.d, c.d.w
	if r.lost || r.mistaken || d.session != session {
		return
	}
	t := c.t
	q := view.PullQuery{UID: d.uid, Conversation: c.c, Cursor: c.t.Cursor(), Limit: w.plan.page}
	page := r.store.pull(&q)
	w.checkPage(r, &q, &page)
	back, ok := w.net(r, d.region, &d.dice)
	if !ok || r.mute > 0 && d.dice.chance(r.mute) {
		return
	}
	d.after(back, func() {
		if d.session != session || c.t != t {
			return
		}
		c.pulling = false
		answer := &wire.PullResponse{Cursor: page.Cursor.String(), More: page.More}
		for i := range page.Records {
			answer.Records = append(answer.Records, wire.RecordOf(&page.Records[i]))
		}
		for i := range page.Repeats {
			p := &page.Repeats[i]
			answer.Repeats = append(answer.Repeats, &wire.Repeat{
				Sender: string(p.Sender), ClientId: p.ClientID.String(), Stamp: uint64(p.Place.Stamp), Origin: string(p.Place.Origin), Seq: p.Place.Seq,
			})
		}
		before := c.t.Cursor()
		changes, err := w.Bug.addPage(c, answer)
		must(err)
		c.take(changes)
		if after := c.t.Cursor(); !after.CoversAll(before) || !after.CoversAll(page.Cursor) && w.Bug == "" {
			w.violate("I7", "the cursor of %s in %s went from %v to %v after a page that covers %v", d.name, c.c, before, after, page.Cursor)
		}
		if page.More || c.again {
			c.pull()
		}
	})
}

// do is what people do.
func (w *world) do(n int, o op) {
	d := w.devices[o.device]
	c := d.chats[o.conv]
	s := &submission{n: n, request: &wire.SubmitRequest{}}
	if o.global {
		s.request.Ack = string(im.AckGlobal)
	}
	switch o.kind {
	case opMove:
		d.region = w.regions[o.arg]
		d.lose("it moves to " + string(d.region.name))
		return
	case opDrop:
		d.lose("its network is gone")
		return
	case opMark:
		c.mark()
		return
	case opSend:
		s.request.Content = &wire.SubmitText{Text: &wire.Text{Text: fmt.Sprint("text ", o.arg)}}
	case opGroup:
		g := w.plan.groups[o.conv-len(w.plan.directs)]
		create := &wire.Create{Title: "group"}
		for _, u := range g.members {
			create.Members = append(create.Members, string(userName(u)))
		}
		s.request.Content = &wire.SubmitCreate{Create: create}
	case opMember:
		names := []string{string(userName(o.arg / 2))}
		m := &wire.Member{Add: names}
		if o.arg%2 == 1 {
			m = &wire.Member{Remove: names}
		}
		s.request.Content = &wire.SubmitMember{Member: m}
	case opTitle:
		s.request.Content = &wire.SubmitSettings{Settings: &wire.Settings{Title: fmt.Sprint("title ", n)}}
	}
	s.id = im.ID{Conversation: c.c, Sender: d.uid, ClientID: w.uuid(1, n)}
	s.request.Conversation, s.request.ClientId = string(c.c), s.id.ClientID.String()
	w.submits = append(w.submits, s)
	w.stats.Submits++
	c.queue = append(c.queue, s)
	c.send()
}

// send submits the oldest of the queue.
func (c *chat) send() {
	d := c.d
	if c.sending || len(c.queue) == 0 || d.session == 0 {
		return
	}
	c.sending = true
	s, session, r := c.queue[0], d.session, d.region
	s.tries++
	s.request.Seen = uint64(c.t.Seen())
	high := c.high
	if c.on != session {
		c.on, c.acked = session, 0
	}
	earlier := c.acked
	body := &wire.SubmitRequest{
		Conversation: s.request.Conversation, ClientId: s.request.ClientId, Seen: s.request.Seen, Ack: s.request.Ack, Content: s.request.Content,
	}
	call := im.Call{Key: string(c.c), UID: d.uid, Device: im.DeviceID(d.name), Seen: d.seen}
	server := r.servers[r.owner]
	if d.dice.chance(0.15) || !server.up {
		server = r.servers[1-r.owner]
	}
	there, back := d.dice.between(500, 4*ms), d.dice.between(500, 4*ms)
	answered := false
	d.w.push(there, server.proc, func() {
		server.submit(call, body, func(res result) {
			d.w.push(back, d.proc, func() {
				if d.session != session || answered || r.mute > 0 && d.dice.chance(r.mute) {
					return
				}
				answered = true
				c.answered(s, res, high, earlier)
			})
		})
	})
	d.after(7*second, func() {
		if d.session != session || answered {
			return
		}
		answered, c.sending = true, false
		d.w.stats.Lost++
		if d.dice.chance(0.5) { // elsewhere, perhaps
			d.region = d.w.regions[d.dice.n(regionCount)]
			d.lose("a submit was not answered")
			return
		}
		c.send()
	})
}

func (c *chat) answered(s *submission, res result, high, earlier im.Stamp) {
	d := c.d
	c.sending = false
	if res.err != nil {
		if im.CodeOf(res.err).Spec().Action == im.ActionStop {
			d.say("%s in %s is refused: %v", short(s.id), c.c, res.err)
			s.refused = true
			d.w.stats.Refused++
			c.queue = c.queue[1:]
			c.send()
			return
		}
		session := d.session
		c.sending = true
		d.after(d.dice.between(100*ms, 3*second), func() {
			if d.session == session {
				c.sending = false
				c.send()
			}
		})
		return
	}
	d.say("%s in %s is acked by %s at %v", short(s.id), c.c, res.origin, res.stamp)
	if s.tries == 1 { // of a repeat that was found, the place was given before
		if res.stamp <= high {
			d.w.violate("I4", "%s in %s got stamp %v, but %s had seen %v", short(s.id), c.c, res.stamp, d.name, high)
		}
		if res.stamp <= earlier {
			d.w.violate("I4", "%s in %s got stamp %v, but the submit before it on its conn got %v", short(s.id), c.c, res.stamp, earlier)
		}
	}
	s.acked, s.result = true, res
	d.w.stats.Acked++
	c.acked = max(c.acked, res.stamp)
	d.seen = max(d.seen, res.stamp)
	c.t.See(res.stamp)
	c.queue = c.queue[1:]
	c.send()
}

// mark tells the region how far everything was read.
func (c *chat) mark() {
	d := c.d
	if d.session == 0 {
		return
	}
	cursor := c.t.Cursor()
	server := d.region.servers[d.region.owner]
	if d.dice.chance(0.1) { // a forged one
		cursor = cursor.Merge(im.Cursor{d.region.origin: 1 << 40})
	}
	d.w.push(d.dice.between(500, 4*ms), server.proc, func() { server.mark(c.c, d.uid, cursor, cursor) })
}
