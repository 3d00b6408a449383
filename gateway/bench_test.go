package gateway

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func benchmarkBody(b *testing.B) []byte {
	b.Helper()
	body, err := wire.Marshal(&wire.Event{From: "eu", Event: &wire.EventRecord{Record: &wire.Record{
		Conversation: "d:ann:bob", Kind: "message", Version: 1, Sender: "ann", ClientId: im.NewUUID(time.Now()).String(),
		Stamp: 1 << 60, Origin: "eu", Seq: 1000, Content: &wire.RecordText{Text: &wire.Text{Text: "a text of some forty characters or so…"}},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	return body
}

// BenchmarkEncodePush is what one more recipient of a push costs the writer, without the socket.
func BenchmarkEncodePush(b *testing.B) {
	for _, subprotocol := range wire.Subprotocols() {
		b.Run(subprotocol, func(b *testing.B) {
			c, err := wire.NewCodec(subprotocol)
			if err != nil {
				b.Fatal(err)
			}
			p := wire.PreparePush("im", "event", benchmarkBody(b), "")
			var scratch []byte
			b.ReportAllocs()
			number := uint64(0)
			for b.Loop() {
				number++
				if scratch, err = p.Append(scratch[:0], c, number); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFanOut hands pushes to sessions that acknowledge them, without sockets: one operation is one recipient.
func BenchmarkFanOut(b *testing.B) {
	for _, recipients := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(recipients), func(b *testing.B) {
			r := newRig(b)
			body := benchmarkBody(b)
			conns := make([]uint64, recipients)
			sessions := make([]*session, recipients)
			for i := range conns {
				conns[i] = uint64(i + 1)
				sessions[i] = newSession(&r.g.cfg, randomText, "ann", &wire.Hello{Device: "d", Login: 1}, conns[i])
				r.g.hub.add(sessions[i])
			}
			push := []im.Push{{Conns: conns, Service: "im", Method: "event", Body: body}}
			h := r.routers.toGateway()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += recipients {
				h.Push(push)
				if i/recipients%64 == 63 {
					for _, s := range sessions {
						s.mu.Lock()
						s.ack(s.number)
						s.mu.Unlock()
					}
				}
			}
			b.StopTimer()
			for _, s := range sessions {
				r.g.hub.end(s, im.CodeDraining, nil)
			}
		})
	}
}

// BenchmarkPushToSockets pushes to 100 real sockets on loopback and waits until every client has read it: one operation
// is one message read by one client, both ends in this process.
func BenchmarkPushToSockets(b *testing.B) {
	const sockets = 100
	for _, subprotocol := range wire.Subprotocols() {
		b.Run(subprotocol, func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.MaxUnacked, c.MaxUnackedBytes = 1<<20, 1<<30 })
			conns := make([]uint64, sockets)
			peers := make([]*peer, sockets)
			for i := range peers {
				peers[i], _ = r.login(subprotocol, im.UID(fmt.Sprint("user", i)), 1)
				conns[i] = uint64(i + 1)
			}
			push := []im.Push{{Conns: conns, Service: "im", Method: "event", Body: benchmarkBody(b)}}
			rounds := max(b.N/sockets, 1)
			done := make(chan struct{}, sockets)
			b.ResetTimer()
			for _, p := range peers {
				go func() {
					defer func() { done <- struct{}{} }()
					for range rounds {
						if _, _, err := p.ws.ReadMessage(); err != nil {
							return
						}
					}
				}()
			}
			for range rounds {
				r.routers.toGateway().Push(push)
			}
			for range peers {
				<-done
			}
		})
	}
}

// BenchmarkIdleConn reports what one idle connection costs: both ends are in this process, so the gateway's share is less
// than the figure.
func BenchmarkIdleConn(b *testing.B) {
	const conns = 1000
	r := newRig(b)
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	for b.Loop() {
		before := memory()
		peers := make([]*peer, conns)
		for i := range peers {
			peers[i], _ = r.login(wire.SubprotocolProtobuf, im.UID(fmt.Sprint("user", i)), 1)
		}
		b.ReportMetric(float64(memory()-before)/conns, "B/conn-both-ends")
		for _, p := range peers {
			p.send(&wire.Bye{})
			p.ws.Close()
		}
		eventually(b, "all are gone", func() bool { return r.g.Load().Conns == 0 })
	}
}
