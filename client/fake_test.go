package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// world is a dumb cluster: logs of records, what each region has applied of them, and gateways on scripts.
type world struct {
	t       *testing.T
	net     *network
	policy  wire.Policy
	json    bool
	store   *MemoryStore
	ipconfs []string
	wg      sync.WaitGroup
	servers []*http.Server

	mu       sync.Mutex
	logs     map[im.Conversation]map[im.Origin][]*wire.Record
	held     map[im.Region]map[im.Conversation]im.Cursor // absent: everything
	left     map[im.Conversation]im.Cursor               // of which the client is no member: where pulls end
	hidden   func(im.Region, *wire.Record) bool          // covered by pulls, and not returned
	gateways []*gateway
	marks    []*wire.MarkRequest
	cut      int // marks whose cursors the region cuts to nothing
	pulls    map[im.Region]int
	pages    []int // bytes of pulled pages with records
	lists    int
	asks     []*http.Request // of ipconfs
}

// gateway is one gateway by script. Hooks are called without locks held, and may be nil.
type gateway struct {
	w      *world
	id     string
	region im.Region
	origin im.Origin

	mu       sync.Mutex
	conns    []*peer
	hellos   []*wire.Hello
	submits  []*wire.SubmitRequest
	pushed   uint64
	resumes  map[string]uint64 // sessions that may be resumed, with the last push sent
	backlog  []*wire.Push
	onHello  func(*wire.Hello) error
	onSubmit func(n int, p *peer, r *wire.SubmitRequest) error // n counts from 1; an error is the reply; errCut: no reply, and the socket goes
	onAcked  func(n int, p *peer) error                        // after the record is in the log, before the ack
	onPull   func(http bool) time.Duration                     // negative: never answers
	acked    uint64
	typings  []bool // stopped, of each
	cancels  int
	dead     bool // takes frames, says nothing
	polls    map[string]*peer
	noSocket bool          // upgrades are refused
	cutAfter time.Duration // WebSockets are cut after so long; 0: never
}

var errCut = errors.New("cut")

// peer is one socket at a gateway.
type peer struct {
	g     *gateway
	ws    *websocket.Conn
	poll  *fakePoll // instead of ws
	codec *wire.Codec
	uid   im.UID
	mu    sync.Mutex
}

func newWorld(t *testing.T) *world {
	p := wire.DefaultPolicy()
	p.BackoffBaseMs, p.BackoffCapMs = 100, 2000
	return &world{
		t: t, net: &network{listeners: map[string]*pipes{}, slow: map[string]time.Duration{}}, policy: p, store: new(MemoryStore),
		logs: map[im.Conversation]map[im.Origin][]*wire.Record{}, held: map[im.Region]map[im.Conversation]im.Cursor{},
		pulls: map[im.Region]int{}, left: map[im.Conversation]im.Cursor{}, hidden: func(im.Region, *wire.Record) bool { return false },
	}
}

func (w *world) serve(addr string, h http.Handler) {
	s := &http.Server{Handler: h}
	w.servers = append(w.servers, s)
	l := w.net.listen(addr)
	w.wg.Go(func() { s.Serve(l) })
}

// ipconf serves the gateways in the order in which they were added.
func (w *world) ipconf(name string) {
	addr := name + ":80"
	w.ipconfs = append(w.ipconfs, "http://"+addr)
	w.serve(addr, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.asks = append(w.asks, r)
		w.mu.Unlock()
		rw.Header().Set("ETag", `"list"`)
		e := wire.Endpoints{Policy: w.policy, TTLMs: 60_000, ServerTimeMs: time.Now().UnixMilli()}
		w.mu.Lock()
		number := map[im.Region]int{}
		for _, g := range w.gateways {
			number[g.region]++ // ids are unique within a region only
			e.Gateways = append(e.Gateways, wire.Endpoint{ID: fmt.Sprint("gateway-", number[g.region]), Region: g.region, URL: "ws://" + g.id + ":80/v1/ws", PullURL: "http://" + g.id + ":80"})
		}
		w.mu.Unlock()
		json.NewEncoder(rw).Encode(e)
	}))
}

func (w *world) gateway(id string, r im.Region) *gateway {
	g := &gateway{w: w, id: id, region: r, origin: im.Origin(r), resumes: map[string]uint64{}}
	w.mu.Lock()
	w.gateways = append(w.gateways, g)
	w.mu.Unlock()
	g.revive()
	return g
}

// kill stops a gateway's listener and sockets.
func (g *gateway) kill() {
	g.w.net.unlisten(g.id + ":80")
	g.drop()
}

// revive takes new connections, again after kill.
func (g *gateway) revive() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", g.socket)
	mux.HandleFunc("POST /v1/poll", g.servePoll)
	mux.HandleFunc("POST /v1/", g.http)
	g.w.serve(g.id+":80", mux)
}

// script changes hooks.
func (g *gateway) script(fn func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fn()
}

func (g *gateway) logins() []*wire.Hello {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.hellos)
}

func (g *gateway) sent() []*wire.SubmitRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.submits)
}

// peer is the oldest socket.
func (g *gateway) peer() *peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns[0]
}

func (w *world) listed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lists
}

func (w *world) log(c im.Conversation, o im.Origin) []*wire.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.logs[c][o])
}

// drop cuts the gateway's sockets.
func (g *gateway) drop() {
	g.mu.Lock()
	conns := g.conns
	g.conns = nil
	g.mu.Unlock()
	for _, p := range conns {
		p.end(0)
	}
}

// close closes them with a code.
func (g *gateway) close(code im.Code) {
	g.mu.Lock()
	conns := g.conns
	g.conns = nil
	g.mu.Unlock()
	for _, p := range conns {
		p.send(wire.FrameOf(wire.ErrorFrame(im.Errorf(code, "by script"))))
		p.end(code.Spec().Close)
	}
}

func (p *peer) message(b []byte) {
	if p.poll != nil {
		p.poll.out <- b
		return
	}
	p.ws.WriteMessage(p.codec.MessageType(), b)
}

// end ends the socket, with a close code if it is not 0.
func (p *peer) end(code int) {
	switch {
	case p.poll != nil:
		p.poll.over(code)
	case code != 0:
		p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
		p.ws.Close()
	default:
		p.ws.Close()
	}
}

func (p *peer) send(f *wire.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.codec.Encode(f)
	if r := f.GetReply(); r != nil && p.codec.MessageType() == wire.TextMessage {
		b, err = nil, nil // replies go through reply
	}
	if err != nil || b == nil {
		return
	}
	p.message(b)
}

func (p *peer) reply(c *wire.Call, body []byte, err error) {
	r := &wire.Reply{Id: c.Id, Body: body}
	if err != nil {
		r.Body, r.Error = nil, wire.ErrorFrame(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, encErr := p.codec.EncodeReply(c.Service, c.Method, r)
	if encErr != nil {
		p.g.w.t.Errorf("reply: %v", encErr)
	}
	p.message(b)
}

func (g *gateway) socket(rw http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	refuse, cut := g.noSocket, g.cutAfter
	g.mu.Unlock()
	if refuse {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	up := websocket.Upgrader{Subprotocols: wire.Subprotocols()}
	ws, err := up.Upgrade(rw, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	if cut > 0 {
		defer time.AfterFunc(cut, func() { ws.Close() }).Stop()
	}
	codec, err := wire.NewCodec(ws.Subprotocol())
	if err != nil {
		return
	}
	p := &peer{g: g, ws: ws, codec: codec}
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		f, err := codec.Decode(b)
		if err != nil {
			g.w.t.Errorf("the client sent: %v", err)
			return
		}
		g.mu.Lock()
		dead := g.dead
		g.mu.Unlock()
		if dead {
			continue
		}
		if !g.frame(p, f) {
			return
		}
	}
}

// frame takes a client's frame; false ends its socket.
func (g *gateway) frame(p *peer, f *wire.Frame) bool {
	switch k := f.Kind.(type) {
	case *wire.FrameHello:
		return g.hello(p, k.Hello)
	case *wire.FramePing:
		p.send(wire.FrameOf(&wire.Pong{}))
	case *wire.FramePushAck:
		g.mu.Lock()
		g.acked = max(g.acked, k.PushAck.Number)
		g.mu.Unlock()
	case *wire.FrameCall:
		if k.Call.Method == wire.MethodSubmit { // in order
			return g.callSubmit(p, k.Call) == nil
		}
		g.w.wg.Go(func() {
			body, err := g.call(p.uid, k.Call.Method, k.Call.Body, false)
			p.reply(k.Call, body, err)
		})
	case *wire.FrameCancel:
		g.mu.Lock()
		g.cancels++
		g.mu.Unlock()
	case *wire.FrameBye:
		return false
	}
	return true
}

func (g *gateway) hello(p *peer, h *wire.Hello) bool {
	g.mu.Lock()
	g.hellos = append(g.hellos, h)
	n := len(g.hellos)
	hook := g.onHello
	var last uint64
	resumed := false
	if h.Resume != nil {
		last, resumed = g.resumes[h.Resume.Session]
	}
	g.mu.Unlock()
	if hook != nil {
		if err := hook(h); err != nil {
			p.send(wire.FrameOf(wire.ErrorFrame(err)))
			p.end(im.CodeOf(err).Spec().Close)
			return false
		}
	}
	p.uid = im.UID(strings.TrimPrefix(h.Token, "token-"))
	w := &wire.Welcome{
		Uid: string(p.uid), Session: fmt.Sprintf("%s-%d", g.id, n), ResumeSecret: "secret", ResumeWindowMs: 60_000, Resumed: resumed,
		Region: string(g.region), Origin: string(g.origin), Gateway: g.id, ServerTimeMs: time.Now().UnixMilli(), HeartbeatMs: 25_000,
		MaxTextBytes: 100,
	}
	var again []*wire.Push
	g.mu.Lock()
	if resumed {
		w.Session = h.Resume.Session
		for _, b := range g.backlog {
			if b.Number > h.Resume.Push && b.Number <= last {
				again = append(again, b)
			}
		}
	} else {
		g.pushed, g.backlog = 0, nil
	}
	g.resumes[w.Session] = g.pushed
	g.mu.Unlock()
	p.send(wire.FrameOf(w))
	for _, b := range again {
		p.send(wire.FrameOf(b))
	}
	g.mu.Lock()
	g.conns = append(g.conns, p)
	g.mu.Unlock()
	return true
}

func (g *gateway) callSubmit(p *peer, call *wire.Call) error {
	r := new(wire.SubmitRequest)
	if err := wire.Unmarshal(call.Body, r); err != nil {
		return err
	}
	g.mu.Lock()
	g.submits = append(g.submits, r)
	n, before, after := len(g.submits), g.onSubmit, g.onAcked
	g.mu.Unlock()
	if before != nil {
		if err := before(n, p, r); errors.Is(err, errCut) {
			return err
		} else if err != nil {
			p.reply(call, nil, err)
			return nil
		}
	}
	body, err := g.submit(p.uid, r)
	if after != nil {
		if err := after(n, p); err != nil {
			return err
		}
	}
	p.reply(call, body, err)
	return nil
}

func (g *gateway) submit(uid im.UID, r *wire.SubmitRequest) ([]byte, error) {
	rec := g.w.append(g.origin, uid, r)
	for _, g := range g.w.all() {
		g.push(rec, g.region)
	}
	return wire.Marshal(&wire.SubmitResponse{
		Conversation: r.Conversation, ClientId: r.ClientId, Stamp: rec.Stamp, Origin: rec.Origin, Global: r.Ack == string(im.AckGlobal),
	})
}

func (w *world) all() []*gateway {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.gateways)
}

// append adds a record to an origin's log.
func (w *world) append(o im.Origin, uid im.UID, r *wire.SubmitRequest) *wire.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := im.Conversation(r.Conversation)
	if w.logs[c] == nil {
		w.logs[c] = map[im.Origin][]*wire.Record{}
	}
	rec := &wire.Record{
		Conversation: r.Conversation, Kind: "message", Version: 1, Sender: string(uid), ClientId: r.ClientId,
		Stamp: max(uint64(im.StampAt(time.Now())), r.Seen+1), Origin: string(o), Seq: uint64(len(w.logs[c][o]) + 1),
	}
	for _, log := range w.logs[c] { // a clock that is never behind itself
		for _, other := range log {
			rec.Stamp = max(rec.Stamp, other.Stamp+1)
		}
	}
	switch k := r.Content.(type) {
	case *wire.SubmitText:
		rec.Content = &wire.RecordText{Text: k.Text}
	case *wire.SubmitCreate:
		rec.Kind, rec.Content = "create", &wire.RecordCreate{Create: k.Create}
	case *wire.SubmitMember:
		rec.Kind, rec.Content = "member", &wire.RecordMember{Member: k.Member}
	}
	w.logs[c][o] = append(w.logs[c][o], rec)
	return rec
}

// say is a text of somebody who is not connected.
func (w *world) say(o im.Origin, c im.Conversation, from im.UID, text string) *wire.Record {
	return w.append(o, from, &wire.SubmitRequest{
		Conversation: string(c), ClientId: im.NewUUID(time.Now()).String(), Content: &wire.SubmitText{Text: &wire.Text{Text: text}},
	})
}

// push sends a record to every socket of the gateway.
func (g *gateway) push(r *wire.Record, from im.Region) {
	body, err := wire.Marshal(&wire.Event{Event: &wire.EventRecord{Record: r}, From: string(from)})
	if err != nil {
		g.w.t.Error(err)
	}
	g.mu.Lock()
	g.pushed++
	p := &wire.Push{Number: g.pushed, Service: wire.ServiceIM, Method: wire.MethodEvent, Body: body}
	g.backlog = append(g.backlog, p)
	for s := range g.resumes {
		g.resumes[s] = g.pushed
	}
	conns := slices.Clone(g.conns)
	g.mu.Unlock()
	for _, c := range conns {
		c.send(wire.FrameOf(p))
	}
}

// typing tells every socket of the gateway that a user types.
func (g *gateway) typing(c im.Conversation, uid im.UID, stopped bool) {
	g.mu.Lock()
	conns := slices.Clone(g.conns)
	g.mu.Unlock()
	for _, p := range conns {
		p.send(wire.FrameOf(&wire.Push{Service: wire.ServiceIM, Method: wire.MethodEvent, Body: wire.EncodeTypingEvent(c, uid, stopped, "us")}))
	}
}

func (g *gateway) typed() []bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.typings)
}

func (g *gateway) ackedUpTo() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.acked
}

// holds says what a region has applied of a conversation; nil: everything.
func (w *world) holds(r im.Region, c im.Conversation, cursor im.Cursor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[r] == nil {
		w.held[r] = map[im.Conversation]im.Cursor{}
	}
	if cursor == nil {
		delete(w.held[r], c)
		return
	}
	w.held[r][c] = cursor
}

func (w *world) head(r im.Region, c im.Conversation) im.Cursor {
	if cursor, limited := w.held[r][c]; limited {
		return cursor
	}
	head := im.Cursor{}
	for o, log := range w.logs[c] {
		head[o] = uint64(len(log))
	}
	return head
}

func (g *gateway) call(uid im.UID, method string, body []byte, http bool) ([]byte, error) {
	w := g.w
	switch method {
	case wire.MethodPull:
		r := new(wire.PullRequest)
		if err := wire.Unmarshal(body, r); err != nil {
			return nil, err
		}
		g.mu.Lock()
		hook := g.onPull
		g.mu.Unlock()
		if hook != nil {
			if d := hook(http); d < 0 {
				select {} // the bubble is never idle by this: the caller's time-out runs
			} else {
				pass(d)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pulls[g.region]++
		c := im.Conversation(r.Conversation)
		cursor, err := im.ParseCursor(r.Cursor)
		if err != nil {
			return nil, err
		}
		head := w.head(g.region, c)
		if end, left := w.left[c]; left {
			head = end
		}
		page := &wire.PullResponse{Cursor: cursor.Merge(head).String()}
		for _, o := range slices.Sorted(maps.Keys(head)) {
			for seq := cursor[o] + 1; seq <= head[o]; seq++ {
				rec := w.logs[c][o][seq-1]
				if w.hidden(g.region, rec) {
					continue
				}
				if r.Limit > 0 && len(page.Records) >= int(r.Limit) {
					page.More, page.Cursor = true, cursor.String()
					break
				}
				page.Records = append(page.Records, rec)
				cursor = cursor.Merge(im.Cursor{o: seq})
			}
		}
		b, err := wire.Marshal(page)
		if len(page.Records) > 0 {
			w.pages = append(w.pages, len(b))
		}
		return b, err
	case wire.MethodList:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lists++
		list := &wire.ListResponse{}
		for _, c := range slices.Sorted(maps.Keys(w.logs)) {
			row := &wire.ListRow{Conversation: string(c), Head: w.head(g.region, c).String(), Member: true}
			if end, left := w.left[c]; left {
				row.Head, row.Member = end.String(), false
			}
			list.Rows = append(list.Rows, row)
		}
		return wire.Marshal(list)
	case wire.MethodMark:
		r := new(wire.MarkRequest)
		if err := wire.Unmarshal(body, r); err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.marks = append(w.marks, r)
		if w.cut > 0 {
			w.cut--
			return wire.Marshal(&wire.MarkResponse{})
		}
		return wire.Marshal(&wire.MarkResponse{Delivered: r.Delivered, Read: r.Read})
	case wire.MethodTyping:
		r := new(wire.TypingRequest)
		if err := wire.Unmarshal(body, r); err != nil {
			return nil, err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.typings = append(g.typings, r.Stopped)
		return wire.Marshal(&wire.TypingResponse{})
	case wire.MethodMembers:
		return wire.Marshal(&wire.MembersResponse{Title: "three", Members: []string{"ann", "bob", string(uid)}})
	case wire.MethodReceipts:
		return wire.Marshal(&wire.ReceiptsResponse{Receipts: []*wire.Receipt{{Uid: "bob", Delivered: "eu=2", Read: "eu=1"}}})
	}
	return nil, im.Errorf(im.CodeUnknownMethod, "%s", method)
}

func (g *gateway) http(rw http.ResponseWriter, r *http.Request) {
	uid := im.UID(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer token-"))
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	method := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	var b []byte
	if method == wire.MethodSubmit {
		s := new(wire.SubmitRequest)
		if err = wire.Unmarshal(body, s); err == nil {
			g.mu.Lock()
			g.submits = append(g.submits, s)
			g.mu.Unlock()
			b, err = g.submit(uid, s)
		}
	} else {
		b, err = g.call(uid, method, body, true)
	}
	rw.Header().Set("Content-Type", protobufType)
	if err != nil {
		e := wire.ErrorFrame(err)
		rw.WriteHeader(im.CodeOf(err).Spec().HTTP)
		b, _ = wire.Marshal(e)
	}
	rw.Write(b)
}
