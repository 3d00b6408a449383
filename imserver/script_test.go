package imserver

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Scripts under testdata tell what a region answers. Time is made up and stands still but for "sleep"; it begins on
// 2000-01-01. Commands:
//
//	submit as=ann [seen=ms] [at=-25h] [id=raw] [key=…] [max=n] [break=text]   body: the request in JSON, client_id filled in; $g is
//	                                             the group; with break, the text's first byte is none of UTF-8
//	call method=pull as=ann                      body: the request in JSON
//	mark, pull, list, receipts, members, typing  the same, named
//	entry topic=msg.us.direct partition=0 [n=offset] [at=1s]     body: a record that came from a peer: kind, sender, conversation, body
//	beat origin=us [at=10s]                      a peer's heartbeats came
//	deliveries                                   what routers were told since the last time
//	interest taken=true                          whether all gateways take interest, as routers say
//	roll of=$s                                   body: the uids that a gateway asks about
//	log topic=…                                  what is in a log, from the first record that is no name
//	down / up [what=store|log|router]            breaks and mends
//	peers n                                      whether peers hold the log
//	sleep 1s
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegion(t)
			defer r.stop()
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				out := strings.ReplaceAll(r.run(t, d), "\u00a0", " ") // protobuf varies its messages on purpose
				synctest.Wait()
				return out
			})
		})
	})
}

// scripted is a region with one imserver on fakes.
type scripted struct {
	t      *testing.T
	log    *fakeLog
	store  *fakeStore
	router *fakeRouter
	held   *fakeHolder
	owns   *fakeOwnership
	server *Server
	ids    int
	stop   func()
	broken faults
}

// faults are what is down.
type faults struct {
	mu   sync.Mutex
	down map[string]bool
}

func (f *faults) set(what string, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[what] = down
}

func (f *faults) of(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down[what] {
		return errDown
	}
	return nil
}

const (
	scriptGroup = "g:eu:00dc6acf-ac00-7000-8000-000000000001" // made at 2000-01-01
	scriptSuper = "s:eu:00dc6acf-ac00-7000-8000-000000000001"
)

func newRegion(t *testing.T) *scripted {
	t.Helper()
	r := &scripted{
		t: t, log: newFakeLog(), store: newFakeStore(1), router: &fakeRouter{}, held: &fakeHolder{held: true},
		owns: newFakeOwnership(0), broken: faults{down: map[string]bool{}},
	}
	r.log.create("eu", 1)
	r.log.create("us", 1)
	r.store.step = func(context.Context, string) error { return r.broken.of("store") }
	r.router.step = func(context.Context) error { return r.broken.of("router") }
	s, err := New(Config{
		Region: "eu", Origins: []im.Origin{"eu", "us"}, Partitions: 1, MaxText: 20, MaxTitle: 10, MaxMembers: 4, Rate: 1, Burst: 30,
	}, Deps{
		Log: r.log, NewReader: r.log.newReader, Store: r.store, Deliver: r.router, Held: r.held, Ownership: r.owns,
		Trust: func(time.Time) error { return r.broken.of("clock") },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.server = s
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	r.stop = func() {
		r.broken.set("store", false)
		r.broken.set("router", false)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
	return r
}

func (r *scripted) run(t *testing.T, d *datadriven.TestData) string {
	arg := func(key string) string {
		if !d.HasArg(key) {
			return ""
		}
		var v string
		d.ScanArgs(t, key, &v)
		return v
	}
	text := strings.NewReplacer("$g", scriptGroup, "$s", scriptSuper).Replace(d.Input)
	switch d.Cmd {
	case "submit":
		r.ids++
		id := im.NewUUID(time.Now().Add(duration(t, arg("at"))))
		copy(id[6:], []byte{0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, byte(r.ids)})
		client := id.String()
		if d.HasArg("id") {
			client = arg("id")
		}
		var request wire.SubmitRequest
		if err := protojson.Unmarshal([]byte(text), &request); err != nil {
			t.Fatal(err)
		}
		request.ClientId = client
		body, err := proto.Marshal(&request)
		if err != nil {
			return err.Error()
		}
		if text := arg("break"); text != "" { // protobuf refuses to write it
			i := bytes.Index(body, []byte(text))
			if i < 0 {
				t.Fatalf("%q is not in the request", text)
			}
			body[i] = 0xff
		}
		call := im.Call{Service: "im", Method: wire.MethodSubmit, UID: im.UID(arg("as")), Body: body, Key: arg("key")}
		if d.HasArg("seen") {
			call.Seen = im.StampAt(time.Now().Add(duration(t, arg("seen"))))
		}
		if d.HasArg("max") {
			d.ScanArgs(t, "max", &call.MaxText)
		}
		result, err := r.server.Call(t.Context(), call)
		if err != nil {
			return err.Error()
		}
		var response wire.SubmitResponse
		if err := proto.Unmarshal(result.Body, &response); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("ok %s origin=%s global=%v", im.Stamp(response.Stamp), response.Origin, response.Global)
	case "pull", "list", "mark", "receipts", "members", "typing", "call":
		return r.call(t, d, arg("as"), arg("method"), text)
	case "entry":
		return r.entry(t, arg, text)
	case "beat":
		for _, topic := range r.server.topics(im.Origin(arg("origin"))) {
			p := im.Partition{Topic: topic}
			e := wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: p.Origin(), ID: logID(p.Origin())}, im.StampAt(time.Now().Add(duration(t, arg("at")))))
			r.log.put(p, wire.AsCopy(e, r.next(p), 0))
		}
	case "deliveries":
		var b strings.Builder
		for _, delivery := range r.router.take() {
			more := map[bool]string{true: " ephemeral"}[delivery.Ephemeral]
			if len(delivery.Join) > 0 {
				more += fmt.Sprint(" join=", names(delivery.Join))
			}
			if i := delivery.Interest; i != nil {
				more += fmt.Sprintf(" at=%s/%d changes=%s", i.Place.Origin, i.Place.Seq, i.Changes)
				if len(i.Before) > 0 {
					more += fmt.Sprintf(" before=%s changed=%v", i.Before, i.Changed)
				}
			}
			fmt.Fprintf(&b, "%v notify=%v%s %s\n", names(delivery.Recipients), delivery.Notify, more, event(t, delivery.Body))
		}
		return b.String()
	case "log":
		var b strings.Builder
		for _, e := range r.log.all(im.Partition{Topic: arg("topic")}) {
			if h := wire.DecodeHead(&e); h.Kind != im.KindLog {
				fmt.Fprintf(&b, "%d %s %s %s\n", e.Offset, h.Kind, h.Conversation, h.Stamp)
			}
		}
		return b.String()
	case "down", "up":
		what := arg("what")
		r.broken.set(what, d.Cmd == "down")
		if what == "log" {
			r.log.mu.Lock()
			r.log.fail = r.broken.of(what)
			r.log.mu.Unlock()
		}
	case "interest":
		r.router.mu.Lock()
		d.ScanArgs(t, "taken", &r.router.interest)
		r.router.mu.Unlock()
	case "roll":
		return r.roll(t, name(arg("of")), im.UID(arg("as")), text)
	case "peers":
		r.held.set(d.CmdArgs[0].Key != "0")
	case "sleep":
		pass(duration(t, d.CmdArgs[0].Key))
	case "burst":
		var n int
		d.ScanArgs(t, "n", &n)
		for range n {
			d.Cmd, d.Input = "submit", `{"conversation":"d:ann:bob","text":{"text":"x"}}`
			if out := r.run(t, d); !strings.HasPrefix(out, "ok") {
				return out
			}
		}
	case "own":
		var numbers []int
		if d.CmdArgs[0].Key == "all" {
			numbers = []int{0}
		}
		r.owns.set(numbers...)
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return ""
}

func (r *scripted) call(t *testing.T, d *datadriven.TestData, as, method, text string) string {
	request := map[string]proto.Message{
		"pull": &wire.PullRequest{}, "list": &wire.ListRequest{}, "mark": &wire.MarkRequest{},
		"receipts": &wire.ReceiptsRequest{}, "members": &wire.MembersRequest{}, "typing": &wire.TypingRequest{},
	}[d.Cmd]
	response := map[string]proto.Message{
		"pull": &wire.PullResponse{}, "list": &wire.ListResponse{}, "mark": &wire.MarkResponse{},
		"receipts": &wire.ReceiptsResponse{}, "members": &wire.MembersResponse{}, "typing": &wire.TypingResponse{},
	}[d.Cmd]
	body := []byte(text)
	if request != nil {
		method = d.Cmd
		if err := protojson.Unmarshal(body, request); err != nil {
			t.Fatal(err)
		}
		body, _ = proto.Marshal(request)
	}
	result, err := r.server.Call(t.Context(), im.Call{Service: "im", Method: method, UID: im.UID(as), Body: body})
	if err != nil {
		return err.Error()
	}
	if response == nil {
		return "ok"
	}
	if err := proto.Unmarshal(result.Body, response); err != nil {
		t.Fatal(err)
	}
	if len(result.Join) > 0 {
		return fmt.Sprintf("%s\njoin=%v all=%v", show(response), names(result.Join), result.All)
	}
	return show(response)
}

func names(uids []im.UID) []string {
	all := make([]string, len(uids))
	for i, uid := range uids {
		all[i] = name(string(uid))
	}
	return all
}

// roll asks as a gateway does, in nobody's name.
func (r *scripted) roll(t *testing.T, of string, as im.UID, text string) string {
	var uids []im.UID
	for _, uid := range strings.Fields(text) {
		uids = append(uids, im.UID(uid))
	}
	body, err := wire.EncodeRollRequest(uids)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.NewReplacer("$s", scriptSuper).Replace(of)
	result, err := r.server.Call(t.Context(), im.Call{Service: "im", Method: wire.MethodRoll, Key: key, UID: as, Body: body})
	if err != nil {
		return err.Error()
	}
	roll, err := wire.DecodeRoll(result.Body)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "changes=%s\n", roll.Changes)
	for _, uid := range slices.Sorted(maps.Keys(roll.Members)) {
		fmt.Fprintf(&b, "%s since %s/%d\n", uid, roll.Members[uid].Origin, roll.Members[uid].Seq)
	}
	return b.String()
}

// show prints a response for people: a row or record a line.
func show(m proto.Message) string {
	var b strings.Builder
	switch m := m.(type) {
	case *wire.PullResponse:
		for _, r := range m.Records {
			fmt.Fprintln(&b, record(r))
		}
		for _, r := range m.Repeats {
			fmt.Fprintf(&b, "repeat %s/%d of %s #%s\n", r.Origin, r.Seq, r.Sender, r.ClientId[34:])
		}
		fmt.Fprintf(&b, "cursor=%s more=%v", m.Cursor, m.More)
	case *wire.ListResponse:
		for _, r := range m.Rows {
			last := "none"
			if r.Last != nil {
				last = record(r.Last)
			}
			fmt.Fprintf(&b, "%s %q member=%v head=%s unread=%d read=%s last: %s\n", name(r.Conversation), r.Title, r.Member, r.Head, r.Unread, r.Read, last)
		}
		fmt.Fprintf(&b, "more=%v", m.More)
	case *wire.MarkResponse:
		fmt.Fprintf(&b, "delivered=%s read=%s", m.Delivered, m.Read)
	case *wire.ReceiptsResponse:
		for _, r := range m.Receipts {
			fmt.Fprintf(&b, "%s delivered=%s read=%s\n", r.Uid, r.Delivered, r.Read)
		}
	case *wire.MembersResponse:
		fmt.Fprintf(&b, "%q %v", m.Title, m.Members)
		if m.Changes != "" {
			fmt.Fprintf(&b, " changes=%s", m.Changes)
		}
	case *wire.TypingResponse:
		b.WriteString("told")
	}
	return b.String()
}

func name(c string) string {
	switch c {
	case scriptGroup:
		return "$g"
	case scriptSuper:
		return "$s"
	}
	return c
}

func record(r *wire.Record) string {
	content := ""
	switch c := r.Content.(type) {
	case *wire.RecordText:
		content = fmt.Sprintf("%q", c.Text.Text)
	case *wire.RecordCreate:
		content = fmt.Sprintf("%q %v", c.Create.Title, c.Create.Members)
	case *wire.RecordMember:
		content = fmt.Sprintf("add %v remove %v", c.Member.Add, c.Member.Remove)
	case *wire.RecordSettings:
		content = fmt.Sprintf("%q", c.Settings.Title)
	}
	return fmt.Sprintf("%s/%d %s %s %s #%s %s", r.Origin, r.Seq, name(r.Conversation), r.Sender, r.Kind, r.ClientId[34:], content)
}

func event(t *testing.T, body []byte) string {
	var e wire.Event
	if err := proto.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	from := e.From
	switch e := e.Event.(type) {
	case *wire.EventRecord:
		return record(e.Record)
	case *wire.EventReceipt:
		return fmt.Sprintf("receipt %s %s delivered=%s read=%s", name(e.Receipt.Conversation), e.Receipt.Uid, e.Receipt.Delivered, e.Receipt.Read)
	case *wire.EventTyping:
		return fmt.Sprintf("typing %s %s stopped=%v from=%s", name(e.Typing.Conversation), e.Typing.Uid, e.Typing.Stopped, from)
	}
	return "nothing"
}

// next is the origin offset that a copy needs next.
func (r *scripted) next(p im.Partition) int64 {
	highest := int64(-1)
	for _, e := range r.log.all(p) {
		highest = max(highest, wire.DecodeHead(&e).OriginOffset)
	}
	return highest + 1
}

// entry puts a peer's record into its copy: "conversation sender #id text".
func (r *scripted) entry(t *testing.T, arg func(string) string, text string) string {
	fields := strings.SplitN(text, " ", 4)
	p := im.Partition{Topic: arg("topic")}
	var id im.UUID
	copy(id[:], []byte{0, 0xdc, 0x6a, 0xcf, 0xac, 0, 0x70, 0, 0x80})
	fmt.Sscanf(fields[2], "#%02x", &id[15])
	body, err := wire.Marshal(&wire.Text{Text: fields[3]})
	if err != nil {
		t.Fatal(err)
	}
	e := wire.EncodeRecord(&im.Record{
		ID:   im.ID{Conversation: im.Conversation(fields[0]), Sender: im.UID(fields[1]), ClientID: id},
		Kind: im.KindMessage, Version: 1, Body: body, Place: im.Place{Stamp: im.StampAt(time.Now().Add(duration(t, arg("at")))), Origin: p.Origin()},
	})
	n := r.next(p)
	if s := arg("n"); s != "" {
		fmt.Sscan(s, &n)
	}
	r.log.put(p, wire.AsCopy(e, n, 0))
	return ""
}

func duration(t *testing.T, s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every code that an imserver can answer is in some script.
func TestScriptsShowEveryCode(t *testing.T) {
	var all strings.Builder
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string {
			all.WriteString(d.Expected)
			return d.Expected
		})
	})
	for _, code := range []im.Code{
		im.CodeBadRequest, im.CodeBadConversation, im.CodeBadClientID, im.CodeBadText, im.CodeTextTooLong, im.CodeBadCursor,
		im.CodeStampAhead, im.CodeNotMember, im.CodeUnknownConversation, im.CodeNotYetHere, im.CodeWrongRegion, im.CodeTooManyRequests,
		im.CodeUnavailable, im.CodeUnknownMethod,
	} {
		if !slices.Contains(strings.FieldsFunc(all.String(), func(r rune) bool { return r == ':' || r == '\n' || r == ' ' }), string(code)) {
			t.Errorf("no script shows %s", code)
		}
	}
}
