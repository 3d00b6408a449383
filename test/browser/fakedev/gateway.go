package fakedev

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	resumeWindow = 10 * time.Second
	maxText      = 2000
)

type gateway struct {
	world    *World
	region   *region
	id       string
	epoch    uint64
	server   *server
	sessions map[string]*session // guarded by World.mu
	polls    map[string]*poll    // guarded by World.mu
	frames   meter               // guarded by World.mu
}

// session numbers its pushes and keeps them for a resume. Guarded by World.mu.
type session struct {
	id, secret string
	uid        im.UID
	device     string
	login      uint64
	conn       *conn // nil without one
	number     uint64
	unacked    []*wire.Push
	gone       time.Time // when its conn went
	mute       int       // pushes to lose on the way: what a bad network does
}

// conn is one connection of a client, by whatever carries its frames.
type conn struct {
	carrier
	codec *wire.Codec
}

// carrier is a WebSocket or a long poll.
type carrier interface {
	send(frame []byte) // in order
	close(code im.Code)
	cut() // without a word
}

func (c *conn) frame(m proto.Message) {
	if b, err := c.codec.Encode(wire.FrameOf(m)); err == nil {
		c.send(b)
	}
}

// end says why and closes.
func (c *conn) end(err error) {
	c.frame(wire.ErrorFrame(err))
	c.close(im.CodeOf(err))
}

type socket struct {
	ws *websocket.Conn
	mu sync.Mutex
}

func (s *socket) send(frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ws.SetWriteDeadline(time.Now().Add(time.Second))
	_ = s.ws.WriteMessage(websocket.TextMessage, frame) // a dead socket is found by its reader
}

func (s *socket) close(code im.Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code.Spec().Close, string(code)), time.Now().Add(time.Second))
	_ = s.ws.Close()
}

func (s *socket) cut() { _ = s.ws.Close() }

func newGateway(w *World, r *region, id string) *gateway {
	g := &gateway{world: w, region: r, id: id, epoch: 1, sessions: map[string]*session{}, polls: map[string]*poll{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", g.serve)
	mux.HandleFunc("/v1/poll", cors(g.servePoll))
	mux.HandleFunc("/v1/pull", cors(g.fallback))
	mux.HandleFunc("/v1/call/im/{method}", cors(g.fallback))
	g.server = &server{handler: mux}
	return g
}

func (g *gateway) wsURL() string { return "ws" + strings.TrimPrefix(g.server.url(), "http") + "/v1/ws" }

// kill drops every socket and session like a crash.
func (g *gateway) kill() {
	g.server.kill()
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	for _, s := range g.sessions {
		if s.conn != nil {
			s.conn.cut()
		}
	}
	g.sessions, g.polls = map[string]*session{}, map[string]*poll{}
	g.epoch++
}

// push numbers a push, keeps it and sends it. The caller holds World.mu.
func (s *session) push(body []byte, trace string) {
	s.number++
	p := &wire.Push{Number: s.number, Service: wire.ServiceIM, Method: wire.MethodEvent, Body: body, Trace: trace}
	s.unacked = append(s.unacked, p)
	if s.mute > 0 {
		s.mute--
		return
	}
	if s.conn != nil {
		s.conn.frame(p)
	}
}

func uidOf(token string) (im.UID, error) {
	name, ok := strings.CutPrefix(token, "fake.")
	if !ok {
		return "", im.Errorf(im.CodeBadToken, "not a token of this world")
	}
	uid, err := im.ParseUID(name)
	if err != nil {
		return "", im.Errorf(im.CodeBadToken, "%v", err)
	}
	return uid, nil
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.world.mu.Lock()
	blocked := g.world.blocked
	g.world.mu.Unlock()
	if blocked {
		http.Error(w, "no WebSocket gets through here", http.StatusBadGateway)
		return
	}
	up := websocket.Upgrader{Subprotocols: []string{wire.SubprotocolJSON}, CheckOrigin: func(*http.Request) bool { return true }}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	codec, err := wire.NewCodec(wire.SubprotocolJSON)
	if err != nil {
		return
	}
	c := &conn{&socket{ws: ws}, codec}
	var s *session
	defer func() {
		g.world.mu.Lock()
		defer g.world.mu.Unlock()
		s.lost(c)
	}()
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		f, err := codec.Decode(b)
		if err == nil && s == nil {
			s, err = g.hello(c, f)
		} else if err == nil && !g.take(c, s, f) {
			return
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// lost notes that a conn is gone, if it is the session's. The caller holds World.mu.
func (s *session) lost(c *conn) {
	if s != nil && s.conn == c {
		s.conn, s.gone = nil, time.Now()
	}
}

// take carries out one frame. False: it was the last.
func (g *gateway) take(c *conn, s *session, f *wire.Frame) bool {
	w := g.world
	w.mu.Lock()
	g.frames.hit(time.Now())
	stalled := g.region.stalled
	w.mu.Unlock()
	switch kind := f.Kind.(type) {
	case *wire.FramePing:
		c.frame(&wire.Pong{})
	case *wire.FramePushAck:
		w.mu.Lock()
		for len(s.unacked) > 0 && s.unacked[0].Number <= kind.PushAck.Number {
			s.unacked = s.unacked[1:]
		}
		w.mu.Unlock()
	case *wire.FrameBye:
		w.mu.Lock()
		if s.conn == c { // else it went on at another one
			delete(g.sessions, s.id)
		}
		w.mu.Unlock()
		return false
	case *wire.FrameCancel:
		w.mu.Lock()
		w.cancels++
		w.mu.Unlock()
	case *wire.FrameCall:
		if kind.Call.Method == wire.MethodPull && stalled {
			return true
		}
		answer := w.serve(g.region, s.uid, kind.Call) // submits go in the order in which they came
		go g.reply(c, kind.Call, answer)
	}
	return true
}

func (g *gateway) hello(c *conn, f *wire.Frame) (*session, error) {
	hello := f.GetHello()
	if hello == nil {
		return nil, im.Errorf(im.CodeHelloExpected, "the first frame must be hello")
	}
	uid, err := uidOf(hello.Token)
	if err != nil {
		return nil, err
	}
	w := g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	var s *session
	resumed := false
	if q := hello.Resume; q != nil {
		if old := g.sessions[q.Session]; old != nil && old.secret == q.Secret && (old.conn != nil || time.Since(old.gone) < resumeWindow) {
			s, resumed = old, true
			w.resumes++
			if s.conn != nil {
				s.conn.cut()
			}
			for len(s.unacked) > 0 && s.unacked[0].Number <= q.Push {
				s.unacked = s.unacked[1:]
			}
		}
	}
	for _, name := range w.names { // the same device elsewhere: the higher login wins
		for _, other := range w.regions[name].gateways {
			for id, had := range other.sessions {
				if had == s || had.uid != uid || had.device != hello.Device {
					continue
				}
				if had.login >= hello.Login {
					return nil, im.Errorf(im.CodeLoginTie, "raise the login number")
				}
				delete(other.sessions, id)
				if had.conn != nil {
					go had.conn.end(im.Errorf(im.CodeReplaced, "this device logged in elsewhere"))
				}
			}
		}
	}
	if s == nil {
		s = &session{id: randomHex(8), secret: randomHex(8), uid: uid, device: hello.Device}
		g.sessions[s.id] = s
	}
	s.login, s.conn = hello.Login, c
	c.frame(&wire.Welcome{
		Uid: string(uid), Session: s.id, ResumeSecret: s.secret, ResumeWindowMs: uint32(resumeWindow.Milliseconds()), Resumed: resumed,
		Region: string(g.region.name), Origin: string(g.region.name), Gateway: g.id, ServerTimeMs: time.Now().UnixMilli(),
		HeartbeatMs: 1000, MaxFrameBytes: 64 << 10, MaxTextBytes: maxText,
	})
	for _, p := range s.unacked {
		c.frame(p)
	}
	return s, nil
}

func (g *gateway) reply(c *conn, q *wire.Call, answer func() ([]byte, error)) {
	body, err := answer()
	reply := &wire.Reply{Id: q.Id, Body: body}
	if err != nil {
		reply = &wire.Reply{Id: q.Id, Error: wire.ErrorFrame(err)}
	}
	if b, err := c.codec.EncodeReply(wire.ServiceIM, q.Method, reply); err == nil {
		c.send(b)
	}
}

// fallback is a call over HTTP.
func (g *gateway) fallback(w http.ResponseWriter, r *http.Request) {
	uid, err := uidOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if err != nil {
		writeError(w, err)
		return
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	method := r.PathValue("method")
	if method == "" {
		method = wire.MethodPull
	}
	// The frame codec knows the methods' types: the call goes through it as if it had come in a frame.
	codec, err := wire.NewCodec(wire.SubprotocolJSON)
	if err != nil {
		writeError(w, err)
		return
	}
	f, err := codec.Decode(fmt.Appendf(nil, `{"call":{"id":1,"method":%q,"body":%s}}`, method, text))
	if err != nil {
		writeError(w, err)
		return
	}
	call := f.GetCall()
	call.Trace = r.Header.Get("Traceparent")
	body, err := g.world.serve(g.region, uid, call)()
	if err != nil {
		writeError(w, err)
		return
	}
	b, err := codec.EncodeReply(wire.ServiceIM, method, &wire.Reply{Id: 1, Body: body})
	var reply struct {
		Reply struct {
			Body json.RawMessage `json:"body"`
		} `json:"reply"`
	}
	if err == nil {
		err = json.Unmarshal(b, &reply)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, reply.Reply.Body)
}
