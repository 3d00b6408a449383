package gateway

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

const protocolPath = "../docs/protocol.md"

func protocol(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(protocolPath)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The document's table of codes is the one that the code has.
func TestProtocolTellsEveryCode(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (retry|back_off|stop) \\| (–|[0-9]{4}) \\| ([0-9]{3}) \\| (.+) \\|$")
	told := map[im.Code]im.Spec{}
	for _, m := range row.FindAllStringSubmatch(protocol(t), -1) {
		number := 0
		if m[3] != "–" {
			number, _ = strconv.Atoi(m[3])
		}
		status, _ := strconv.Atoi(m[4])
		if _, twice := told[im.Code(m[1])]; twice {
			t.Errorf("%s has two rows", m[1])
		}
		told[im.Code(m[1])] = im.Spec{Action: im.Action(m[2]), Close: number, HTTP: status}
	}
	for _, code := range im.Codes() {
		if got, ok := told[code]; !ok {
			t.Errorf("%s has no row", code)
		} else if got != code.Spec() {
			t.Errorf("%s: the document says %+v, the code %+v", code, got, code.Spec())
		}
		delete(told, code)
	}
	for code := range told {
		t.Errorf("the document tells of %s, which is no code", code)
	}
}

// Every frame, every method of im and every field of both is in the document, with its number.
func TestProtocolTellsEveryField(t *testing.T) {
	text := protocol(t)
	sections := map[string]string{} // heading → text
	for _, s := range regexp.MustCompile("(?m)^##+ ").Split(text, -1) {
		heading, body, _ := strings.Cut(s, "\n")
		for name := range strings.SplitSeq(heading, ",") {
			name = strings.Trim(strings.TrimSpace(name), " →←")
			sections[name] = body
		}
	}
	seen := map[protoreflect.FullName]bool{}
	var look func(section string, m protoreflect.MessageDescriptor)
	look = func(section string, m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		body := sections[section]
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if f.Message() != nil {
				look(section, f.Message())
			}
			name := regexp.QuoteMeta("`" + string(f.Name()) + "`")
			number := strconv.Itoa(int(f.Number()))
			inRow := regexp.MustCompile("\\| " + name + " \\| " + number + " \\|")
			inText := regexp.MustCompile(name + "\\s\\(" + number + "[,)]")
			inList := regexp.MustCompile(name + "[^|\n]* \\| [0-9, ]*\\b" + number + "\\b[0-9, ]* \\|")
			if !inRow.MatchString(body) && !inText.MatchString(body) && !inList.MatchString(body) {
				t.Errorf("section %q does not tell of field %s (%s) of %s", section, f.Name(), number, m.Name())
			}
		}
	}
	kinds := antipodev1.File_antipode_v1_frame_proto.Messages().ByName("Frame").Fields()
	frames := []string{"error"}
	look("error", kinds.ByName("error").Message()) // replies hold one too
	for i := range kinds.Len() {
		f := kinds.Get(i)
		frames = append(frames, string(f.Name()))
		if _, ok := sections[string(f.Name())]; !ok {
			t.Errorf("frame %s has no section", f.Name())
			continue
		}
		look(string(f.Name()), f.Message())
	}
	methods := antipodev1.File_antipode_v1_im_proto.Services().ByName("IM").Methods()
	// pull tells of records before list and event use them.
	order := []protoreflect.Name{"Submit", "Pull", "Receipts"}
	for i := range methods.Len() {
		if name := methods.Get(i).Name(); !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	for _, name := range order {
		section := strings.ToLower(string(name))
		if _, ok := sections[section]; !ok {
			t.Errorf("method %s has no section", section)
			continue
		}
		look(section, methods.ByName(name).Input())
		look(section, methods.ByName(name).Output())
	}
	messages := antipodev1.File_antipode_v1_frame_proto.Messages()
	seen[messages.ByName("Frame").FullName()] = true // its kinds were looked at
	for _, name := range []protoreflect.Name{"PollRequest", "PollAnswer"} {
		look("Long poll", messages.ByName(name))
	}
	if !slices.Contains(frames, "hello") || len(seen) < 30 {
		t.Errorf("looked at %v and %d messages only", frames, len(seen))
	}
}

// A heartbeat in protobuf takes less than 16 bytes on the wire, masked as a client's must be; in JSON, which only has browsers
// without protobuf to serve, it takes one byte more.
func TestHeartbeatBytes(t *testing.T) {
	for subprotocol, want := range map[string][2]int{wire.SubprotocolProtobuf: {8, 4}, wire.SubprotocolJSON: {17, 13}} {
		codec, err := wire.NewCodec(subprotocol)
		if err != nil {
			t.Fatal(err)
		}
		ping, err := codec.Encode(wire.FrameOf(&wire.Ping{}))
		if err != nil {
			t.Fatal(err)
		}
		pong, err := codec.Encode(wire.FrameOf(&wire.Pong{}))
		if err != nil {
			t.Fatal(err)
		}
		const header, mask = 2, 4
		if got := [2]int{header + mask + len(ping), len(ws.AppendFrame(nil, ws.Opcode(codec.MessageType()), pong))}; got != want {
			t.Errorf("%s: ping and pong take %v bytes, want %v", subprotocol, got, want)
		}
	}
}
