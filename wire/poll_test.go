package wire

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// The bodies that are put together here frame by frame are those of the schema.
func TestPollBodies(t *testing.T) {
	for _, subprotocol := range Subprotocols() {
		codec, err := NewCodec(subprotocol)
		if err != nil {
			t.Fatal(err)
		}
		var frames [][]byte
		for _, m := range []proto.Message{&Ping{}, &PushAck{Number: 7}} {
			b, err := codec.Encode(FrameOf(m))
			if err != nil {
				t.Fatal(err)
			}
			frames = append(frames, b)
		}
		unmarshal := proto.Unmarshal
		if subprotocol == SubprotocolJSON {
			unmarshal = func(b []byte, m proto.Message) error { return protojson.Unmarshal(b, m) }
		}
		q := PollRequest{Conn: `a"b`, Number: 3, HoldMs: 25_000, Frames: frames}
		var request antipodev1.PollRequest
		if err := unmarshal(codec.EncodePoll(&q), &request); err != nil {
			t.Fatal(subprotocol, err)
		}
		if request.Conn != q.Conn || request.Number != 3 || request.HoldMs != 25_000 || len(request.Frames) != 2 || request.Frames[1].GetPushAck().GetNumber() != 7 {
			t.Errorf("%s: the schema reads %v", subprotocol, &request)
		}
		if got, err := codec.DecodePoll(codec.EncodePoll(&q)); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%s: %+v became %+v, %v", subprotocol, q, got, err)
		}
		a := PollAnswer{Conn: "c", Close: 4002, Frames: frames}
		var answer antipodev1.PollAnswer
		if err := unmarshal(codec.EncodePollAnswer(&a), &answer); err != nil {
			t.Fatal(subprotocol, err)
		}
		if answer.Conn != "c" || answer.Close != 4002 || len(answer.Frames) != 2 {
			t.Errorf("%s: the schema reads %v", subprotocol, &answer)
		}
		if got, err := codec.DecodePollAnswer(codec.EncodePollAnswer(&a)); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%s: %+v became %+v, %v", subprotocol, a, got, err)
		}
		if got, err := codec.DecodePollAnswer(codec.EncodePollAnswer(&PollAnswer{})); err != nil || !reflect.DeepEqual(got, PollAnswer{}) {
			t.Errorf("%s: nothing became %+v, %v", subprotocol, got, err)
		}
	}
}

func TestPollBodiesThatAreNone(t *testing.T) {
	json, _ := NewCodec(SubprotocolJSON)
	binary, _ := NewCodec(SubprotocolProtobuf)
	for _, c := range []struct {
		name  string
		codec *Codec
		body  string
	}{
		{"no JSON", json, "hello"},
		{"an array", json, "[]"},
		{"not UTF-8", json, "{\"conn\":\"\xff\"}"},
		{"deep", json, `{"frames":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}"},
		{"a number of another kind", json, `{"number":-1}`},
		{"many frames", json, `{"frames":[` + strings.Repeat("{},", maxPollFrames) + `{}]}`},
		{"cut short", binary, "\x0a\x05abc"},
		{"no tag", binary, "\xff"},
		{"many frames", binary, strings.Repeat("\x22\x00", maxPollFrames+1)},
	} {
		if q, err := c.codec.DecodePoll([]byte(c.body)); im.CodeOf(err) != im.CodeBadFrame {
			t.Errorf("%s: %+v, %v", c.name, q, err)
		}
	}
	// Fields that a newer client sends are passed over.
	if q, err := binary.DecodePoll([]byte("\x10\x07\x48\x01\x4d\x00\x00\x00\x00\x52\x01x")); err != nil || q.Number != 7 {
		t.Errorf("%+v, %v", q, err)
	}
}

func FuzzDecodePoll(f *testing.F) {
	f.Add(true, []byte(`{"conn":"c","number":1,"frames":[{"ping":{}}]}`))
	f.Add(false, []byte("\x0a\x01c\x10\x01\x22\x02\x1a\x00"))
	f.Fuzz(func(t *testing.T, asJSON bool, b []byte) {
		name := SubprotocolProtobuf
		if asJSON {
			name = SubprotocolJSON
		}
		codec, err := NewCodec(name)
		if err != nil {
			t.Fatal(err)
		}
		q, err := codec.DecodePoll(b)
		if err != nil {
			return
		}
		again, err := codec.DecodePoll(codec.EncodePoll(&q))
		if err != nil || again.Conn != q.Conn || again.Number != q.Number || again.HoldMs != q.HoldMs || len(again.Frames) != len(q.Frames) {
			t.Errorf("%+v became %+v, %v", q, again, err)
		}
	})
}
