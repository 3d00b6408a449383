package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/antipode-im/antipode/internal/await"
)

// peer is Centrifugo v5 with its memory engine, JSON over WebSocket, as its documentation sets it up.
type peer struct {
	program, dir string
	port         int
}

func (p *peer) addr() string     { return fmt.Sprintf("127.0.0.1:%d", p.port) }
func (p *peer) dialect() dialect { return p }
func (p *peer) dial(ctx context.Context) (net.Conn, error) {
	return dial(ctx, p.addr())
}
func (p *peer) path() string        { return "/connection/websocket" }
func (p *peer) subprotocol() string { return "" }
func (p *peer) opcode() byte        { return 1 }
func (p *peer) heartbeat() []byte   { return nil } // the server pings

func (p *peer) start(ctx context.Context) (*process, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		p.port = tcp.Port
	}
	l.Close()
	config := filepath.Join(p.dir, "centrifugo.json")
	err = os.WriteFile(config, []byte(`{"address": "127.0.0.1", "api_key": "bench", "log_level": "error", "allow_anonymous_connect_without_token": true,
		"allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true, "client_queue_max_size": 67108864}`), 0o600)
	if err != nil {
		return nil, err
	}
	s, err := spawn(ctx, nil, p.program, "--config", config, "--port", strconv.Itoa(p.port))
	if err != nil {
		return nil, err
	}
	err = await.Within(ctx, 20*time.Second, 20*time.Millisecond, func() (bool, string) {
		c, err := p.dial(ctx)
		if err != nil {
			return false, err.Error()
		}
		c.Close()
		return true, ""
	})
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (p *peer) login(int) []byte {
	return []byte(`{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"room"}}`)
}

func (p *peer) ready(b []byte) bool { return bytes.Contains(b, []byte(`"subscribe"`)) }

func (p *peer) push(ctx context.Context) error {
	at := strconv.FormatInt(time.Now().UnixNano(), 10)
	body := fmt.Sprintf(`{"channel":"room","data":{"t":%s,"x":"%s"}}`, at, filler(messageBytes-len(at)-14))
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(bounded, http.MethodPost, "http://"+p.addr()+"/api/publish", bytes.NewBufferString(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-API-Key", "bench")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || bytes.Contains(answer.Bytes(), []byte(`"error"`)) {
		return fmt.Errorf("publish: %s: %s", response.Status, answer.Bytes())
	}
	return nil
}

func (p *peer) message(b []byte, _ int64) (sent []int64, answer []byte) {
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); string(line) == "{}" {
			answer = line // a ping
			continue
		}
		if _, rest, ok := bytes.Cut(line, []byte(`"t":`)); ok {
			digits, _, _ := bytes.Cut(rest, []byte(","))
			if at, err := strconv.ParseInt(string(digits), 10, 64); err == nil {
				sent = append(sent, at)
			}
		}
	}
	return sent, bytes.Clone(answer)
}
