package simulator

import (
	"fmt"
	"maps"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// checkPage judges what a region answers a pull (I7).
func (w *world) checkPage(r *region, q *view.PullQuery, page *view.Page) {
	if r.declared {
		return
	}
	if !page.Cursor.CoversAll(q.Cursor) {
		w.violate("I7", "%s answers %v of %s with the cursor %v", r.name, q.Cursor, q.Conversation, page.Cursor)
		return
	}
	for _, records := range [][]im.Record{page.Records, page.Repeats} {
		for i := range records {
			p := records[i].Place
			if q.Cursor.Covers(p.Origin, p.Seq) {
				w.violate("I7", "%s answers %v of %s with %v, which it covers", r.name, q.Cursor, q.Conversation, p)
			}
			if !page.Cursor.Covers(p.Origin, p.Seq) {
				w.violate("I7", "%s answers %v of %s with %v, which its cursor %v does not cover", r.name, q.Cursor, q.Conversation, p, page.Cursor)
			}
		}
	}
	asked := uint64(0)
	for o, seq := range page.Cursor {
		if seq <= q.Cursor[o] {
			continue
		}
		if held := r.store.view.Last(view.HeadKey{Conversation: q.Conversation, Origin: o}); seq > held {
			w.violate("I7", "%s covers %s/%d of %s, but it holds %d", r.name, o, seq, q.Conversation, held)
			return
		}
		asked += seq - q.Cursor[o]
	}
	if q.Conversation.Members() != nil && asked != uint64(len(page.Records)+len(page.Repeats)) {
		w.violate("I7", "%s covers %d records of %s from %v to %v, but gives %d", r.name, asked, q.Conversation, q.Cursor, page.Cursor,
			len(page.Records)+len(page.Repeats))
	}
}

// checkEnd judges a world that was whole for a while and in which nobody writes any more.
func (w *world) checkEnd() {
	w.checkLogs()
	if len(w.violations) > 0 {
		return
	}
	w.checkAcks()
	for i, c := range w.convs {
		w.checkConversation(i, c)
	}
	w.checkDigests()
	w.checkRoutes()
}

// checkLogs: every region applied every log to its end, and holds each stream as it is (I2, I8).
func (w *world) checkLogs() {
	for _, r := range w.regions {
		for _, l := range r.order {
			if l.family == im.FamilyRoute {
				continue
			}
			end, sealed := w.seals[l.p.Topic]
			if !sealed {
				end = int64(len(w.of(l.origin).log(l.p.Topic).entries))
			}
			if at := r.store.view.Position(l.p).Next; at != end {
				w.violate("I8", "%s applied %v up to %d; the log ends at %d", r.name, l.p, at, end)
			}
		}
		for _, c := range w.convs {
			for _, o := range w.truth.origins[c] {
				k := view.HeadKey{Conversation: c, Origin: o}
				if has, want := r.store.view.Last(k), uint64(len(w.truth.streams[k])); has != want {
					w.violate("I2", "%s holds %d of %d records of %s from %s", r.name, has, want, c, o)
				}
			}
		}
	}
}

// checkAcks: what was acked is in its log, and with global, it survived (I1).
func (w *world) checkAcks() {
	type key struct {
		id     im.UUID
		origin im.Origin
		stamp  im.Stamp
	}
	in := make(map[key]bool, w.truth.total)
	for k, stream := range w.truth.streams {
		for i := range stream {
			in[key{stream[i].id.ClientID, k.Origin, stream[i].place.Stamp}] = true
		}
	}
	for _, s := range w.submits {
		if !s.acked || in[key{s.id.ClientID, s.result.origin, s.result.stamp}] {
			continue
		}
		_, sealed := w.seals[im.ReadTopic(s.result.origin)]
		next := im.NewOrigin(s.result.origin.Region(), 2)
		switch {
		case sealed && in[key{s.id.ClientID, next, s.result.stamp}]: // the region brought it along
		case sealed && s.result.global:
			w.violate("I1", "%s in %s was acked by %s, with global, and did not survive the loss of it", short(s.id), s.id.Conversation, s.result.origin)
		case sealed && !w.returned:
			w.stats.Lost++ // only the region had it
		default:
			w.violate("I1", "%s in %s was acked by %s at %v, but is not in its log", short(s.id), s.id.Conversation, s.result.origin, s.result.stamp)
		}
	}
}

// checkConversation: all regions and devices show the same, in the same order (I3, I6), and pulling ends (I7).
func (w *world) checkConversation(n int, c im.Conversation) {
	all := w.truth.timeline(c)
	w.stats.Repeats -= len(all)
	for _, o := range w.truth.origins[c] {
		w.stats.Repeats += len(w.truth.streams[view.HeadKey{Conversation: c, Origin: o}])
	}
	lowest := make(map[im.UUID]im.Place, len(all))
	for i := range all {
		lowest[all[i].id.ClientID] = all[i].place
	}
	users := make([]im.UID, w.plan.users)
	for i := range users {
		users[i] = userName(i)
	}
	has := make([]shown, 0, len(all))
	for u, uid := range users {
		spans, plain := w.truth.spans(c, uid)
		if members := c.Members(); members != nil && !slices.Contains(members, uid) {
			continue
		}
		want := all
		if c.Members() == nil {
			want = slices.DeleteFunc(slices.Clone(all), func(s shown) bool { return !within(spans, s.place) })
		}
		// Regions hold the same, as checkLogs saw: it is enough to look at one for each user.
		r := w.regions[(n+u)%regionCount]
		w.compare(fmt.Sprintf("region %s, to %s,", r.name, uid), c, w.pullAll(r, c, uid, len(want)), want, true)
		for _, d := range w.devices {
			if d.uid != uid {
				continue
			}
			chat := d.chats[n]
			has = has[:0]
			for _, m := range chat.t.Messages() {
				// Of a record that was sent again after somebody had joined, they are pushed the second: they may show it, at
				// its own place, though it stands where they may not look.
				if low := lowest[m.ClientID]; c.Members() == nil && low != m.Place && low != (im.Place{}) && !within(spans, low) && within(spans, m.Place) {
					continue
				}
				has = append(has, shown{m.ID, m.Place, m.Kind})
			}
			w.compare("device "+d.name, c, has, want, plain)
			if plain && !chat.t.Complete() {
				w.violate("I7", "%s misses %v of %s after all was pulled", d.name, chat.t.Missing(), c)
			}
		}
	}
}

// pullAll pulls a conversation from nothing until nothing comes.
func (w *world) pullAll(r *region, c im.Conversation, uid im.UID, about int) []shown {
	all := make([]shown, 0, about)
	q := view.PullQuery{UID: uid, Conversation: c, Limit: 500}
	for {
		page := r.store.pull(&q)
		for i := range page.Records {
			all = append(all, shown{page.Records[i].ID, page.Records[i].Place, page.Records[i].Kind})
		}
		if !page.More {
			again := q
			again.Cursor = page.Cursor
			if rest := r.store.pull(&again); len(rest.Records)+len(rest.Repeats) > 0 {
				w.violate("I7", "%s gives more of %s for %v, which is all", r.name, c, page.Cursor)
			}
			slices.SortFunc(all, func(a, b shown) int { return a.place.Compare(b.place) }) // pages are about in order: clients sort
			return all
		}
		if page.Cursor.String() == q.Cursor.String() {
			w.violate("I7", "%s gives a page of %s that covers no more than %v, and says that there is more", r.name, c, q.Cursor)
			return nil
		}
		q.Cursor = page.Cursor
	}
}

// compare compares what somebody shows with what they must. If they need not show all, what they show must be of it, in
// its order.
func (w *world) compare(who string, c im.Conversation, has, want []shown, whole bool) {
	if whole && slices.Equal(has, want) {
		return
	}
	at := make(map[im.UUID]im.Place, len(want))
	for _, s := range want {
		at[s.id.ClientID] = s.place
	}
	var last im.Place
	seen := map[im.UUID]bool{}
	for _, s := range has {
		p, ok := at[s.id.ClientID]
		switch {
		case seen[s.id.ClientID]:
			w.violate("I6", "%s shows %s in %s twice", who, short(s.id), c)
			return
		case !ok && whole:
			w.violate("I3", "%s shows %s in %s, which nobody else does", who, short(s.id), c)
			return
		case ok && p != s.place && whole:
			w.violate("I6", "%s shows %s in %s at %v; its lowest place is %v", who, short(s.id), c, s.place, p)
			return
		case compare(last, s.place) >= 0 && last != (im.Place{}):
			w.violate("I3", "%s shows %v before %v in %s", who, last, s.place, c)
			return
		}
		seen[s.id.ClientID] = true
		last = s.place
	}
	if !whole {
		return
	}
	for _, s := range want {
		if !seen[s.id.ClientID] {
			w.violate("I7", "%s never got %s in %s, at %v", who, short(s.id), c, s.place)
			return
		}
	}
}

// checkDigests: all regions' views are equal (I9), and no cursor covers what does not exist.
func (w *world) checkDigests() {
	first := w.regions[0].store.digest()
	for _, r := range w.regions[1:] {
		if d := r.store.digest(); !maps.Equal(d, first) {
			w.violate("I9", "digests of %s and %s differ: %v and %v", w.regions[0].name, r.name, first, d)
		}
	}
	for _, c := range w.convs {
		var users []im.UID
		for i := range w.plan.users {
			users = append(users, userName(i))
		}
		for _, receipt := range w.regions[0].store.view.Receipts(c, users) {
			for o, seq := range receipt.Read.Merge(receipt.Delivered) {
				if n := uint64(len(w.truth.streams[view.HeadKey{Conversation: c, Origin: o}])); seq > n && w.seals[im.ReadTopic(o)] == 0 {
					w.violate("I7", "%s has read up to %s/%d of %s, which has %d", receipt.UID, o, seq, c, n)
				}
			}
		}
	}
}

// checkRoutes: every region finds every device where it is (I10), and all know the same live routes (I9).
func (w *world) checkRoutes() {
	now := im.StampAt(w.regions[0].servers[0].now())
	first := w.regions[0].router.table.Digest(now)
	for _, r := range w.regions {
		if d := r.router.table.Digest(now); d != first {
			w.violate("I9", "digests of the routes of %s and %s differ", w.regions[0].name, r.name)
		}
		damped := map[im.Region]bool{} // what comes and goes does not count for a while
		for _, reach := range r.router.table.Reaches(r.router.stamp()) {
			damped[reach.Region] = reach.Suppressed
		}
		for _, unknown := range r.router.table.Unknown(0, r.router.stamp()) {
			if !damped[unknown] {
				w.violate("I10", "%s does not know the routes of %s, though all is well", r.name, unknown)
			}
		}
		for u := range w.plan.users {
			for _, route := range r.router.table.Rows(userName(u), r.router.stamp()) {
				alive := false
				for _, g := range w.of(im.Origin(route.Region)).gateways {
					alive = alive || g.id == route.Gateway
				}
				if !alive {
					w.violate("I10", "%s keeps a route of %s to %s/%d, which is long gone", r.name, route.UID, route.Gateway.ID, route.Gateway.Epoch)
				}
			}
		}
		for _, d := range w.devices {
			if d.gateway == nil {
				w.violate("I10", "%s found no gateway", d.name)
				continue
			}
			if damped[d.gateway.r.name] {
				continue
			}
			found := false
			for _, route := range r.router.table.Lookup(nil, d.uid, r.router.stamp()) {
				if route.Device != im.DeviceID(d.name) {
					continue
				}
				found = route.Gateway == d.gateway.id && route.Region == d.gateway.r.name && route.Conn == d.conn && route.Login == d.login
				if !found {
					w.violate("I10", "%s has %s at conn %d of %s/%d, login %d; it is at conn %d of %s/%d, login %d", r.name, d.name,
						route.Conn, route.Gateway.ID, route.Gateway.Epoch, route.Login, d.conn, d.gateway.id.ID, d.gateway.id.Epoch, d.login)
				}
				found = true
			}
			if !found {
				w.violate("I10", "%s does not know where %s is: conn %d of %s/%d", r.name, d.name, d.conn, d.gateway.id.ID, d.gateway.id.Epoch)
			}
		}
	}
}
