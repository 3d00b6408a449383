package gateway

import (
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxPollBody is how many times the largest frame a poll's body may have: several small ones travel together.
const maxPollBody = 2

// servePoll is one request of a long poll: of a conn that is there, or the first of a new one.
func (g *Gateway) servePoll(w http.ResponseWriter, r *http.Request) {
	if !g.originAllowed(r) {
		http.Error(w, "this origin may not call", http.StatusForbidden)
		return
	}
	g.allowOrigin(w, r)
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	codec := g.codecs[wire.SubprotocolJSON]
	switch {
	case media == mediaProtobuf:
		codec = g.codecs[wire.SubprotocolProtobuf]
	case err != nil || media != mediaJSON:
		writeError(w, im.Errorf(im.CodeBadRequest, "Content-Type must be %s or %s", mediaJSON, mediaProtobuf))
		return
	}
	answer, err := g.poll(w, r, codec)
	if err != nil {
		if err != errClientClosed {
			writeErrorAs(w, err, media == mediaJSON)
		}
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(answer) // the client left: it repeats the request
}

func (g *Gateway) poll(w http.ResponseWriter, r *http.Request, codec *wire.Codec) ([]byte, error) {
	q, err := g.readPoll(r, codec)
	if err != nil {
		return nil, err
	}
	var p *longPoll
	if q.Conn == "" {
		if len(q.Frames) == 0 || q.Number != 1 || q.HoldMs == 0 {
			return nil, im.Errorf(im.CodeBadRequest, "a poll without conn begins one: it has the number 1, hold_ms and a hello")
		}
		if p, err = g.openPoll(w, r, codec); err != nil {
			return nil, err
		}
	} else if p = g.polls.get(q.Conn); p == nil {
		a := g.noPoll(codec)
		return codec.EncodePollAnswer(&a), nil
	}
	switch {
	case p.c.codec != codec:
		return nil, im.Errorf(im.CodeBadRequest, "the Content-Type is not that of the connection's first request")
	case !p.came():
		return nil, refusal(im.CodeTooManyRequests, time.Second, "too many requests on this connection")
	case q.HoldMs == 0:
		if err := p.send(&q); err != nil {
			return nil, err
		}
		return codec.EncodePollAnswer(&wire.PollAnswer{}), nil
	}
	// The server's deadlines are those of calls.
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Time{}) != nil || control.SetWriteDeadline(time.Now().Add(g.cfg.PollHold+g.cfg.ClaimTimeout+g.cfg.WriteTimeout)) != nil {
		return nil, errClientClosed
	}
	return p.receive(r.Context(), &q, g.cfg.PollHold)
}

// readPoll reads a body. Few are read at once: who sends it is not known yet.
func (g *Gateway) readPoll(r *http.Request, codec *wire.Codec) (q wire.PollRequest, err error) {
	select {
	case g.pollReads <- struct{}{}:
		defer func() { <-g.pollReads }()
	default:
		g.metrics.shed("calls")
		return q, refusal(im.CodeOverloaded, time.Second, "too many polls are being read")
	}
	most := maxPollBody * g.cfg.MaxFrame
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(most)+1))
	switch {
	case err != nil:
		return q, errCutShort
	case len(body) > most:
		return q, im.Errorf(im.CodeFrameTooLarge, "the body has more than %d bytes", most)
	}
	return codec.DecodePoll(body)
}

// openPoll makes a conn, under the same conditions as an upgrade.
func (g *Gateway) openPoll(w http.ResponseWriter, r *http.Request, codec *wire.Codec) (*longPoll, error) {
	if g.successor.has() {
		w.Header().Set("Connection", "close") // the next one reaches the process that serves
		return nil, errRestarts
	}
	if g.draining.Load() {
		return nil, errDraining
	}
	ip := g.clientIP(r)
	if err := g.admitUpgrade(ip); err != nil {
		g.metrics.shed("handshake")
		return nil, err
	}
	if err := g.conns.reserve(ip); err != nil {
		g.metrics.shed("handshake")
		return nil, err
	}
	c := g.newConn(codec, ip)
	p := &longPoll{c: c, id: g.random(16), over: make(chan struct{})}
	c.socket = p
	if g.polls.add(p) != nil {
		g.conns.release(ip)
		g.metrics.shed("handshake")
		return nil, refusal(im.CodeOverloaded, 5*time.Second, "this gateway has too many clients by long poll")
	}
	if !g.conns.add(c) {
		g.conns.release(ip)
		c.gone.Store(true)
		p.Close()
		return nil, errDraining
	}
	g.metrics.conns(1)
	c.arm()
	return p, nil
}
