package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// FuzzHandshake: whatever a client sends instead of a handshake, the gateway upgrades it only if that is a WebSocket's, of a
// subprotocol that it offers and the gateway speaks; else it answers with a status that tells that the client is wrong, or closes.
func FuzzHandshake(f *testing.F) {
	goroutines := runtime.NumGoroutine()
	f.Cleanup(func() { // net/http keeps one for half a second after it refused a request, also when its server has ended
		for until := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines && time.Now().Before(until); {
			time.Sleep(10 * time.Millisecond) // nothing tells when they end
		}
	})
	r := newRig(f, func(c *Config) { c.HelloTimeout = 200 * time.Millisecond })
	good := "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + wire.SubprotocolJSON + "\r\n\r\n"
	for _, s := range []string{
		good, "", "\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", good[:60], good + "\x81\x80abcd",
		strings.Replace(good, "13", "12", 1), strings.Replace(good, "antipode", "other", 1), strings.Replace(good, "GET", "POST", 1),
		strings.Replace(good, "Host: x", "Host: x\r\nOrigin: https://evil.example", 1),
		strings.Replace(good, "Host: x", "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", 1),
		strings.Replace(good, "Host: x", "Host: x\r\nX: "+strings.Repeat("x", 1<<16), 1),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		c, err := net.Dial("tcp", r.g.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(request); err != nil {
			return // refused before it was read
		}
		_ = c.(*net.TCPConn).CloseWrite()
		in := bufio.NewReader(c)
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Fatal("neither answered nor closed")
			}
			return
		}
		defer response.Body.Close()
		switch status := response.StatusCode; {
		case status == http.StatusSwitchingProtocols:
			if p := response.Header.Get("Sec-WebSocket-Protocol"); p == "" || !strings.Contains(string(request), p) {
				t.Fatalf("upgraded to %q, which was not offered", p)
			}
		case status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported:
			body, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
			t.Fatalf("answered %s: %s", response.Status, body)
		}
	})
}
