package client

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/gorilla/websocket"
)

// socket carries frames to a gateway and back: a WebSocket, a stream of WebTransport, or a long poll.
type socket interface {
	// ReadMessage reads a frame. A *websocket.CloseError says with which code the gateway closed, whatever carried it.
	ReadMessage() (typ int, b []byte, err error)
	WriteMessage(typ int, b []byte) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	// farewell ends it behind what was written, a bye.
	farewell()
	// abandon drops one that lost a race, so that neither side keeps state for it.
	abandon()
	Close() error
}

type webSocket struct{ *websocket.Conn }

func (s webSocket) farewell() {
	_ = s.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(writeTimeout)) // bye was sent; this is courtesy
}

// abandon resets the connection: the gateway frees it at once, before hello, and no port lingers here.
func (s webSocket) abandon() {
	conn := s.NetConn()
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // it is closed either way
	}
	conn.Close()
}
