package replicator_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/faultnet"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

var knock = []im.Delivery{{Service: "im", Method: "message", Recipients: []im.UID{"bob"}}}

func (n *node) noticed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.notices) > 0
}

// noise is a message that no compression makes smaller.
func noise(o im.Origin, bytes int) im.Entry {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // it never fails
	return message(o, string(b))
}

// TestNotifyPassesABacklog: over a slow link whose window is full of a log that is caught up with, a notify comes ahead of nearly all
// of that. What is counted is bytes, not time: so much may cross the link while the notify does.
func TestNotifyPassesABacklog(t *testing.T) {
	const rate, ahead = 256 << 10, 768 << 10
	m := newMesh(t, nil, "eu", "us")
	eu, us := m.nodes["eu"], m.nodes["us"]
	for i := range 24 {
		for range 16 {
			eu.log.must(eu.own()[i%4], noise("eu", 64<<10))
		}
	}
	slow := m.proxy("us", "eu")
	slow.Set(faultnet.Down, faultnet.Fault{Rate: rate, Delay: 50 * time.Millisecond})
	m.start()
	passed := func() uint64 { return slow.Stats().Bytes[faultnet.Down] }
	eventually(t, "megabytes are under way", func() bool { return m.linkOut(t, "eu", "us").Bytes > passed()+4<<20 })
	before := passed()
	eventually(t, "a notify comes", func() bool { // the first may have been sent before the link of notifies was open
		if err := eu.replicator().Notify(t.Context(), "us", knock); err != nil {
			t.Fatal(err)
		}
		return us.noticed()
	})
	if n := passed() - before; n > ahead {
		t.Errorf("%d bytes of the log came before the notify", n)
	}
	if m.copied("eu", "us") {
		t.Error("the log was caught up with meanwhile: this shows nothing")
	}
}

// TestNotifyPassesACap: a link that may send nothing for hours, so deep is it in debt, sends a notify.
func TestNotifyPassesACap(t *testing.T) {
	m := newMesh(t, func(c *replicator.Config) {
		c.NotifyAge = time.Minute
		if c.Region == "eu" {
			c.Caps = []replicator.Cap{{Peer: "us", BytesPerSecond: 1}}
		}
	}, "eu", "us")
	eu, us := m.nodes["eu"], m.nodes["us"]
	for range 16 {
		eu.log.must(eu.own()[0], noise("eu", 64<<10))
	}
	m.start()
	eventually(t, "the link is in debt", func() bool { return m.linkOut(t, "eu", "us").Records > 0 })
	if err := eu.replicator().Notify(t.Context(), "us", knock); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the notify comes", us.noticed)
}

// TestNotifiesOfOlderBuilds: where the sender knows no link of notifies, none is opened, and they come with the log.
func TestNotifiesOfOlderBuilds(t *testing.T) {
	notices := make(chan []im.Delivery, 1)
	_, _, dialer := alone(t, nil, func(d *replicator.Deps) { d.Notifier = takes(notices) })
	link := within(t, dialer, "link")
	opened(t, link)
	link.down <- &wire.LinkResponse{Kind: &wire.LinkResponseNotify{Notify: wire.NotifyOf("eu", "us", knock)}}
	within(t, notices, "notify")
	select {
	case <-dialer:
		t.Error("a link of notifies is opened to a build that has none")
	default:
	}
}

// TestLinkOfNotifiesIsOpenedAgain: its end ends nothing else, and meanwhile what comes with the log is taken.
func TestLinkOfNotifiesIsOpenedAgain(t *testing.T) {
	notices := make(chan []im.Delivery, 1)
	_, _, dialer := alone(t, nil, func(d *replicator.Deps) { d.Notifier = takes(notices) })
	link := within(t, dialer, "link")
	opened(t, link, func(o *wire.LinkOpened) { o.Notifies = true })
	for range 3 {
		apart := within(t, dialer, "link of notifies")
		open := within(t, apart.up, "open").GetOpen()
		if !open.GetNotifies() || len(open.Partitions) > 0 || open.Origin != "eu" || open.Own != "us" {
			t.Fatalf("it is opened with %v", open)
		}
		apart.down <- &wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: &wire.LinkOpened{Region: "eu"}}}
		apart.down <- &wire.LinkResponse{Kind: &wire.LinkResponseNotify{Notify: wire.NotifyOf("eu", "us", knock)}}
		within(t, notices, "notify")
		apart.down <- &wire.LinkResponse{Kind: &wire.LinkResponseStatus{Status: &wire.LinkStatus{ClockMs: 7}}}
		if held := within(t, apart.up, "answer").GetHeld(); held.GetStatusMs() != 7 || held.ClockMs == 0 {
			t.Fatalf("a status is answered by %v", held)
		}
		pipeReceiver{apart}.Close()
		link.down <- &wire.LinkResponse{Kind: &wire.LinkResponseNotify{Notify: wire.NotifyOf("eu", "us", knock)}}
		within(t, notices, "notify on the link of the log")
	}
}

// TestSenderOfNotifies: notifies go on the link of their own while one is open, and on that of the log before and after.
func TestSenderOfNotifies(t *testing.T) {
	r, _, _ := alone(t, func(c *replicator.Config) { c.NotifyAge = time.Minute })
	running(t, r)
	comesOn := func(p *pipe) {
		t.Helper()
		eventually(t, "a link takes it", func() bool { return r.Notify(t.Context(), "eu", knock) == nil }) // soon after it is opened
		for {
			if m := within(t, p.down, "notify"); m.GetNotify() != nil {
				return
			}
		}
	}
	link, _ := served(t, r, openUS(1<<20))
	if o := within(t, link.down, "opened").GetOpened(); !o.GetNotifies() {
		t.Fatal("it does not say that notifies may have a link of their own")
	}
	comesOn(link)
	apart, ended := served(t, r, &wire.LinkOpen{Region: "eu", Origin: "us", Version: wire.LinkVersions().Oldest, Notifies: true})
	if o := within(t, apart.down, "opened").GetOpened(); o == nil || len(o.Partitions) > 0 {
		t.Fatalf("opened with %v", o)
	}
	comesOn(apart)
	pipeReceiver{apart}.Close()
	within(t, ended, "end of the link of notifies")
	comesOn(link)

	greedy := openUS(1 << 20)
	greedy.Notifies = true
	_, refused := served(t, r, greedy)
	if err := within(t, refused, "refusal"); im.CodeOf(err) != im.CodeBadRequest {
		t.Errorf("a link of notifies that asks for partitions ends with %v", err)
	}
}

// takes is a router that gives what it is given to a test.
type takes chan []im.Delivery

func (c takes) Notify(ctx context.Context, _ im.Region, ds []im.Delivery) error {
	select {
	case c <- ds:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
