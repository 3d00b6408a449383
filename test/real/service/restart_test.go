//go:build real

package service_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/wire"
)

// serveWithin is the promise: an imserver that has all partitions serves again after this time.
const serveWithin = 2 * time.Second

// TestStartOwningAll: one imserver alone, started again with all partitions: timelines that hold something, and a log that
// went on while it was away. What counts is the first pull and the first ack that it gives.
func TestStartOwningAll(t *testing.T) {
	const conversations, before, meanwhile = 200, 4000, 400
	addr := fmt.Sprintf("%s:%d", world.env.Host(3), 10_000+world.ports.Add(1))
	over := settings{"timelines.urls": database(t), "rpc": addr}
	migrate(t, over)
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{world.kafka.Addr()}}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	chat := func(n int) im.Conversation { return im.Direct(im.UID(fmt.Sprintf("dave-%d", n%conversations)), "erin") }
	body := []byte(strings.Repeat("x", 100))
	preload(t, log, before, body, chat)
	s := start(t, "imserver", "imserver-1", over)
	share(t, s)
	eventually(t, "all is applied", func() error { return applied(t, log, over["timelines.urls"]) })
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	preload(t, log, meanwhile, body, chat)

	began := time.Now()
	s.start()
	eventually(t, "it answers a pull", func() error {
		answer := new(wire.PullResponse)
		err := ask(t, addr, wire.MethodPull, chat(0), &wire.PullRequest{Conversation: string(chat(0)), Limit: 100}, answer)
		if err == nil && len(answer.Records) < before/conversations {
			err = fmt.Errorf("it returns %d records", len(answer.Records))
		}
		return err
	})
	pulled := world.env.Since(began)
	eventually(t, "it acks a message", func() error {
		return ask(t, addr, wire.MethodSubmit, chat(0), &wire.SubmitRequest{
			Conversation: string(chat(0)), ClientId: im.NewUUID(time.Now()).String(), Content: &wire.SubmitText{Text: &wire.Text{Text: "back"}},
		}, new(wire.SubmitResponse))
	})
	acked := world.env.Since(began)
	t.Logf("after its start it answered the first pull in %v and acked the first message in %v", pulled.Round(time.Millisecond), acked.Round(time.Millisecond))
	if acked > serveWithin {
		t.Errorf("it served after %v; want %v at most", acked, serveWithin)
	}
	share(t, s)
	eventually(t, "what came meanwhile is applied", func() error { return applied(t, log, over["timelines.urls"]) })
}

// preload appends messages of erin's to the region's own log.
func preload(t testing.TB, log *kafka.Cluster, n int, body []byte, chat func(int) im.Conversation) {
	t.Helper()
	batches := map[im.Partition][]im.Entry{}
	for i := range n {
		now := time.Now()
		c := chat(i)
		p := im.Partition{Topic: im.MsgTopic("eu", im.LaneDirect), Number: wire.Partition(string(c), partitions)}
		batches[p] = append(batches[p], wire.EncodeRecord(&im.Record{
			ID:   im.ID{Conversation: c, Sender: "erin", ClientID: im.NewUUID(now)},
			Kind: im.KindMessage, Version: 1, Body: body, Place: im.Place{Stamp: im.StampAt(now), Origin: "eu"},
		}))
	}
	for p, entries := range batches {
		for batch := range slices.Chunk(entries, 1000) {
			if _, err := log.Append(t.Context(), p, batch); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// ask calls an imserver as a gateway does for erin, over a connection of its own: one that has failed waits to be made anew.
func ask(t *testing.T, addr, method string, c im.Conversation, question, answer proto.Message) error {
	t.Helper()
	authority, err := certs.Open(world.keys)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := authority.Identity("gateway", "eu")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(addr, rpc.DialConfig{TLS: identity.Client("imserver", "eu")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body, err := proto.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	result, err := rpc.NewBackend(conn).Call(ctx, im.Call{
		Service: "im", Method: method, Key: string(c), Body: body, UID: "erin", Device: "phone", Platform: "ios", MaxText: 1000,
	})
	if err != nil {
		return err
	}
	return proto.Unmarshal(result.Body, answer)
}
