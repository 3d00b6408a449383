package replicator_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// pipe is a link without a network, so that a test can play one of its ends.
type pipe struct {
	up   chan *wire.LinkRequest
	down chan *wire.LinkResponse
	done chan struct{}
}

func newPipe() *pipe {
	return &pipe{make(chan *wire.LinkRequest, 1024), make(chan *wire.LinkResponse, 1024), make(chan struct{})}
}

// The receiver's end; the test plays the sender.
type pipeReceiver struct{ *pipe }

func (p pipeReceiver) Send(m *wire.LinkRequest) error {
	select {
	case p.up <- m:
		return nil
	case <-p.done:
		return io.EOF
	}
}

func (p pipeReceiver) Recv() (*wire.LinkResponse, error) {
	select {
	case m := <-p.down:
		return m, nil
	case <-p.done:
		return nil, io.EOF
	}
}

func (p pipeReceiver) Close() {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
}

// The sender's end; the test plays the receiver.
type pipeSender struct{ *pipe }

func (p pipeSender) Send(m *wire.LinkResponse) error {
	select {
	case p.down <- m:
		return nil
	case <-p.done:
		return io.EOF
	}
}

func (p pipeSender) Recv() (*wire.LinkRequest, error) {
	select {
	case m := <-p.up:
		return m, nil
	case <-p.done:
		return nil, io.EOF
	}
}

// pipeDialer gives each link to the test.
type pipeDialer chan *pipe

func (d pipeDialer) Link(ctx context.Context, _ im.Region) (wire.LinkReceiver, error) {
	p := newPipe()
	select {
	case d <- p:
		return pipeReceiver{p}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// alone runs us's replicator with the test as the world around it.
func alone(t *testing.T, tune func(*replicator.Config), with ...func(*replicator.Deps)) (*replicator.Replicator, *fakeLog, pipeDialer) {
	t.Helper()
	log := newFakeLog([]im.Origin{"eu", "us"}, 1)
	log.name(im.LogName{Origin: "us", ID: im.UUID{2}})
	dialer := make(pipeDialer)
	cfg := replicator.Config{
		Region: "us", Origin: "us", Partitions: 1, Peers: []replicator.Peer{{Region: "eu", Origin: "eu"}},
		LinkTimeout: patience, BackoffBase: 2 * time.Millisecond, BackoffMax: 10 * time.Millisecond, AppendTimeout: patience,
	}
	if tune != nil {
		tune(&cfg)
	}
	deps := replicator.Deps{Log: log, NewReader: log.NewReader, Dialer: dialer}
	for _, f := range with {
		f(&deps)
	}
	r, err := replicator.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r, log, dialer
}

var euName = im.LogName{Origin: "eu", ID: im.UUID{1}}

// opened answers an open: everything is shipped.
func opened(t *testing.T, p *pipe, with ...func(*wire.LinkOpened)) *wire.LinkOpen {
	t.Helper()
	open := within(t, p.up, "open").GetOpen()
	if open == nil {
		t.Fatal("the first message is no open")
	}
	o := &wire.LinkOpened{Region: "eu", ClockMs: time.Now().UnixMilli()}
	for range open.Partitions {
		o.Partitions = append(o.Partitions, &wire.LinkPartitionState{LogId: euName.ID[:], End: 100})
	}
	for _, f := range with {
		f(o)
	}
	p.down <- &wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: o}}
	return open
}

func batchOf(first int64, entries ...im.Entry) *wire.LinkResponse {
	var raw []byte
	for i := range entries {
		raw = wire.AppendLinkEntry(raw, &entries[i])
	}
	return &wire.LinkResponse{Kind: &wire.LinkResponseBatch{Batch: &wire.LinkBatch{First: first, Count: uint32(len(entries)), Entries: raw}}}
}

// seekOf returns the next seek of partition 0.
func seekOf(t *testing.T, p *pipe) int64 {
	t.Helper()
	for {
		if s := within(t, p.up, "seek").GetSeek(); s != nil {
			return s.Offset.Offset
		}
	}
}

func TestAsksAgainForWhatTheLinkSkipped(t *testing.T) {
	_, log, dialer := alone(t, nil)
	p := within(t, dialer, "link")
	open := opened(t, p)
	if len(open.Partitions) != 5 || open.Partitions[0].Next != 0 || len(open.Partitions[0].LogId) != 0 {
		t.Fatalf("open %v", open)
	}
	at := im.Partition{Topic: open.Partitions[0].Topic}
	p.down <- batchOf(0, wire.EncodeLogName(im.KindLog, euName, 1), message("eu", "1"))
	eventually(t, "the records 0 and 1", func() bool { return log.end(at) == 2 })
	p.down <- batchOf(5, message("eu", "5"))
	next := seekOf(t, p)
	if next == wire.LinkPause { // unless what it was for overtook it
		next = seekOf(t, p)
	}
	if next != 2 {
		t.Fatalf("asked for %d", next)
	}
	p.down <- batchOf(6, message("eu", "6")) // sent before the seek arrived
	p.down <- batchOf(1, message("eu", "1"), message("eu", "2"), message("eu", "3"))
	eventually(t, "the records 0 to 3", func() bool { return log.end(at) == 4 })
	for i, e := range log.taken(at) {
		if h := wire.DecodeHead(&e); h.OriginOffset != int64(i) {
			t.Fatalf("record %d has offset %d", i, h.OriginOffset)
		}
	}
}

func TestPausesWhatCannotBeAppended(t *testing.T) {
	_, log, dialer := alone(t, func(c *replicator.Config) { c.BackoffBase, c.BackoffMax = 100*time.Millisecond, 200*time.Millisecond })
	p := within(t, dialer, "link")
	open := opened(t, p)
	at := im.Partition{Topic: open.Partitions[0].Topic}
	log.setFault(func(im.Partition, []im.Entry) appendFault { return landed }) // it says it failed
	p.down <- batchOf(0, wire.EncodeLogName(im.KindLog, euName, 1))
	if offset := seekOf(t, p); offset != wire.LinkPause {
		t.Fatalf("asked for %d", offset)
	}
	log.setFault(nil)
	if offset := seekOf(t, p); offset != 1 {
		t.Fatalf("the append landed: asked for %d", offset)
	}
	p.down <- batchOf(1, message("eu", "1"))
	eventually(t, "the next record", func() bool { return log.end(at) == 2 })
}

func TestDropsALinkThatBreaksTheProtocol(t *testing.T) {
	big := strings.Repeat("x", 4<<20)
	for name, play := range map[string]func(*pipe){
		"a batch of no partition": func(p *pipe) {
			m := batchOf(0, message("eu", "x"))
			m.GetBatch().Partition = 5
			p.down <- m
		},
		"a batch that does not decode": func(p *pipe) {
			m := batchOf(0, message("eu", "x"))
			m.GetBatch().Entries = []byte{200, 1}
			p.down <- m
		},
		"a compression of the future": func(p *pipe) {
			m := batchOf(0, message("eu", "x"))
			m.GetBatch().Compression = "brotli"
			p.down <- m
		},
		"a second opened": func(p *pipe) {
			p.down <- &wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: &wire.LinkOpened{}}}
		},
		"more than the window": func(p *pipe) {
			for i := range int64(8) {
				p.down <- batchOf(i, message("eu", big))
			}
		},
		"silence": func(*pipe) {},
	} {
		t.Run(name, func(t *testing.T) {
			_, log, dialer := alone(t, func(c *replicator.Config) {
				c.WindowBytes = 1 << 20 // and what one message may hold beside it
				if name == "silence" {
					c.LinkTimeout = 300 * time.Millisecond
				}
			})
			p := within(t, dialer, "link")
			opened(t, p)
			hold := make(chan struct{}) // no append ends, so no credit comes back
			release := sync.OnceFunc(func() { close(hold) })
			defer release()
			log.setFault(func(im.Partition, []im.Entry) appendFault { <-hold; return fine })
			play(p)
			within(t, p.done, "end of the link")
			release()
			opened(t, within(t, dialer, "new link"))
		})
	}
}

// TestCreditIsNotKept: what the receiver has of the window goes back though it is little and no copy moves. A sender whose
// next message is larger than the rest of the window would wait for ever.
func TestCreditIsNotKept(t *testing.T) {
	_, _, dialer := alone(t, func(c *replicator.Config) { c.WindowBytes = 1 << 20 })
	p := within(t, dialer, "link")
	opened(t, p)
	taken, given := 0, 0
	for range 2 { // the second time it is nothing new
		m := batchOf(0, wire.EncodeLogName(im.KindLog, euName, 1), message("eu", "1"))
		taken += len(m.GetBatch().Entries)
		p.down <- m
		for ms, end := int64(1), time.Now().Add(patience); given < taken && time.Now().Before(end); ms++ { // the first may come when the status was answered
			p.down <- &wire.LinkResponse{Kind: &wire.LinkResponseStatus{Status: &wire.LinkStatus{ClockMs: ms}}}
			for answered := false; !answered; {
				m := within(t, p.up, "answer")
				given += int(m.GetCredit().GetBytes())
				answered = m.GetHeld().GetStatusMs() == ms
			}
		}
	}
	if given != taken {
		t.Errorf("%d bytes were taken of the window, and %d given back", taken, given)
	}
}

// served opens a link to us's own log, played by the test.
func served(t *testing.T, r *replicator.Replicator, open *wire.LinkOpen) (*pipe, chan error) {
	t.Helper()
	p := newPipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		err := r.Link(ctx, "eu", pipeSender{p})
		pipeReceiver{p}.Close()
		ended <- err
	}()
	t.Cleanup(cancel)
	p.up <- &wire.LinkRequest{Kind: &wire.LinkRequestOpen{Open: open}}
	return p, ended
}

func openUS(window uint64) *wire.LinkOpen {
	return &wire.LinkOpen{
		Region: "eu", Origin: "us", Version: wire.LinkVersions().Oldest, WindowBytes: window,
		Partitions: []*wire.LinkPartition{{Topic: "msg.us.direct"}},
	}
}

func running(t *testing.T, r *replicator.Replicator) {
	t.Helper()
	eventually(t, "running", func() bool {
		err := r.Held(t.Context(), func(im.Held) error { return io.EOF })
		return errors.Is(err, io.EOF)
	})
}

// TestTripIsToldAtOnce: a receiver gives the window its size by the round trip, which the sender measures by its first status
// and tells with the second. Neither waits for the interval.
func TestTripIsToldAtOnce(t *testing.T) {
	r, _, _ := alone(t, func(c *replicator.Config) { c.StatusInterval, c.LinkTimeout = time.Hour, time.Hour })
	running(t, r)
	p, _ := served(t, r, openUS(1<<20))
	status := func() *wire.LinkStatus {
		for {
			if s := within(t, p.down, "status").GetStatus(); s != nil {
				return s
			}
		}
	}
	first := status()
	if first.RoundTripUs != 0 {
		t.Errorf("a round trip of %d µs was told before any", first.RoundTripUs)
	}
	p.up <- &wire.LinkRequest{Kind: &wire.LinkRequestHeld{Held: &wire.LinkHeld{StatusMs: first.ClockMs - 1000, ClockMs: first.ClockMs}}}
	if second := status(); second.RoundTripUs < 1_000_000 {
		t.Errorf("an answer after 1 s is told as a round trip of %d µs", second.RoundTripUs)
	}
}

func TestSenderRespectsTheWindow(t *testing.T) {
	const window = 256 << 10
	r, log, _ := alone(t, func(c *replicator.Config) { c.BatchBytes = 32 << 10 })
	running(t, r)
	text := strings.Repeat("x", 1000)
	for range 2000 {
		log.must(im.Partition{Topic: "msg.us.direct"}, message("us", text))
	}
	p, _ := served(t, r, openUS(window))
	got, records := 0, 0
	take := func() { // what comes until nothing does any more; half a window at least
		for end := got + window/2; records < 2001; {
			wait := 100 * time.Millisecond
			if got < end {
				wait = patience
			}
			var m *wire.LinkResponse
			select {
			case m = <-p.down:
			case <-time.After(wait):
				return
			}
			if b := m.GetBatch(); b != nil {
				records += int(b.Count)
				got += int(b.Count) * 1100 // a little less than what an entry takes
			}
		}
	}
	take()
	if got > window || got < window/2 {
		t.Fatalf("%d bytes came without credit; the window is %d", got, window)
	}
	for records < 2001 {
		before := records
		p.up <- &wire.LinkRequest{Kind: &wire.LinkRequestCredit{Credit: &wire.LinkCredit{Bytes: window}}}
		take()
		if records == before {
			t.Fatalf("nothing comes with credit, after %d records", records)
		}
	}
}

func TestSenderPacksPartitionsTogether(t *testing.T) {
	const most = 16 << 10
	r, log, _ := alone(t, func(c *replicator.Config) { c.BatchBytes = most })
	running(t, r)
	open := openUS(1 << 20)
	open.Partitions = nil
	want := map[int]int64{}
	for i, p := range log.partitions("us") {
		open.Partitions = append(open.Partitions, &wire.LinkPartition{Topic: p.Topic, Partition: uint32(p.Number)})
		for range 10 * (i + 1) {
			log.must(p, message("us", strings.Repeat("x", 500)))
		}
		want[i] = int64(10*(i+1)) + 1 // and the record that names the log
	}
	p, _ := served(t, r, open)
	got := map[int]int64{}
	left := func() (n int64) {
		for i := range want {
			n += want[i] - got[i]
		}
		return n
	}
	previous := most
	for left() > 0 {
		m := within(t, p.down, "batches")
		bytes := 0
		if b := m.GetBatch(); b != nil {
			m = &wire.LinkResponse{Kind: &wire.LinkResponseBatches{Batches: &wire.LinkBatches{Batches: []*wire.LinkBatch{b}}}}
		}
		for _, b := range m.GetBatches().GetBatches() {
			if b.First != got[int(b.Partition)] {
				t.Fatalf("partition %d: %d came, wanted %d", b.Partition, b.First, got[int(b.Partition)])
			}
			got[int(b.Partition)] += int64(b.Count)
			bytes += int(b.Count) * 560 // at least
		}
		if bytes > most+600 {
			t.Fatalf("a message of %d bytes or more, of %d at most", bytes, most)
		}
		if bytes == 0 {
			continue
		}
		if together := previous + bytes; together < most*3/4 {
			t.Fatalf("messages of %d and %d bytes, which one of %d could hold", previous, bytes, most)
		}
		previous = bytes
	}
}

func TestSenderPausesAndSeeks(t *testing.T) {
	r, log, _ := alone(t, nil)
	running(t, r)
	at := im.Partition{Topic: "msg.us.direct"}
	p, _ := served(t, r, openUS(1<<20))
	next := func() *wire.LinkBatch {
		for {
			if b := within(t, p.down, "batch").GetBatch(); b != nil {
				return b
			}
		}
	}
	if b := next(); b.First != 0 {
		t.Fatalf("first %d", b.First)
	}
	seek := func(offset int64) {
		p.up <- &wire.LinkRequest{Kind: &wire.LinkRequestSeek{Seek: &wire.LinkSeek{Offset: &wire.LinkOffset{Offset: offset}}}}
	}
	seek(wire.LinkPause)
	eventually(t, "the sender reads the partition no more", func() bool { return log.count(&log.drops) == 1 })
	log.must(at, message("us", "1"), message("us", "2"))
	seek(2)
	if b := next(); b.First != 2 || b.Count != 1 {
		t.Fatalf("after the seek: %d records from %d", b.Count, b.First)
	}
	seek(0)
	if b := next(); b.First != 0 || b.Count != 3 {
		t.Fatalf("asked again: %d records from %d", b.Count, b.First)
	}
}

func TestSenderRefusesWhoAsksWrongly(t *testing.T) {
	r, _, _ := alone(t, func(c *replicator.Config) { c.LinkTimeout = 300 * time.Millisecond })
	running(t, r)
	for name, c := range map[string]struct {
		change func(*wire.LinkOpen)
		code   im.Code
	}{
		"another region's name":   {func(o *wire.LinkOpen) { o.Region = "ap" }, im.CodeBadToken},
		"another origin's log":    {func(o *wire.LinkOpen) { o.Origin = "eu" }, im.CodeWrongRegion},
		"an origin epoch":         {func(o *wire.LinkOpen) { o.Origin = "us.2" }, im.CodeWrongRegion},
		"a version of the future": {func(o *wire.LinkOpen) { o.Version = wire.LinkVersions().Newest + 1 }, im.CodeBadRequest},
		"a version of the past":   {func(o *wire.LinkOpen) { o.Version = wire.LinkVersions().Oldest - 1 }, im.CodeBadRequest},
		"too many partitions": {func(o *wire.LinkOpen) {
			for range 10 {
				o.Partitions = append(o.Partitions, &wire.LinkPartition{})
			}
		}, im.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			o := openUS(1 << 20)
			c.change(o)
			_, ended := served(t, r, o)
			if err := within(t, ended, "end"); im.CodeOf(err) != c.code {
				t.Fatal(err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		_, ended := served(t, r, openUS(1<<20))
		if err := within(t, ended, "end"); im.CodeOf(err) != im.CodeUnavailable {
			t.Fatal(err)
		}
	})
	t.Run("partitions that are none", func(t *testing.T) {
		o := openUS(1 << 20)
		o.Partitions = []*wire.LinkPartition{{Topic: "msg.us.direct"}, {Topic: "msg.us.direct"}, {Topic: "msg.eu.direct"}, {Topic: "read.us", Partition: 1}}
		p, _ := served(t, r, o)
		m := within(t, p.down, "opened").GetOpened()
		for i, s := range m.Partitions {
			if (s.Refused == "") != (i == 0) {
				t.Errorf("partition %d: refused %q", i, s.Refused)
			}
		}
	})
}
