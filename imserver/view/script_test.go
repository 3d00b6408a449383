package view

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Scripts under testdata tell what a view derives. Commands:
//
//	log eu       appends to the log of eu and applies it, a record a line:
//	             <stamp> <conversation> <sender> #<id> message|create|member|settings|<kind> <words>
//	             <stamp> <conversation> <uid> read|delivered <cursor>
//	pull ann <conversation> [from=…] [limit=…] [upto=…]
//	list ann [limit=…]      goes on from the last list's cursor with "again"
//	members <conversation>  title and members
//
// $g and $s are a group and a super group.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := scripted{t: t, view: NewView(1), ends: map[im.Partition]int64{}, lists: map[string]im.ListCursor{}}
		datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string { return strings.TrimSpace(s.run(d)) })
	})
}

type scripted struct {
	t     *testing.T
	view  *View
	ends  map[im.Partition]int64
	lists map[string]im.ListCursor
}

var names = strings.NewReplacer("$g", "g:eu:00dc6acf-ac00-7000-8000-000000000001", "$s", "s:eu:00dc6acf-ac00-7000-8000-000000000002")

func (s *scripted) run(d *datadriven.TestData) string {
	words := make([]string, 0, 4)
	options := map[string]string{}
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			words = append(words, names.Replace(a.Key))
		} else {
			options[a.Key] = strings.Join(a.Vals, ",")
		}
	}
	if options["limit"] == "" {
		options["limit"] = "100"
	}
	limit, err := strconv.Atoi(options["limit"])
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	switch d.Cmd {
	case "log":
		for line := range strings.Lines(d.Input) {
			s.line(im.Origin(words[0]), strings.TrimSpace(line))
		}
	case "pull":
		q := PullQuery{UID: im.UID(words[0]), Conversation: im.Conversation(words[1]), Limit: limit}
		if q.Cursor, err = im.ParseCursor(options["from"]); err != nil {
			s.t.Fatal(err)
		}
		if q.Upto, err = im.ParseCursor(options["upto"]); err != nil {
			s.t.Fatal(err)
		}
		page := s.view.Pull(q)
		for _, r := range page.Records {
			fmt.Fprintln(&b, line(&r))
		}
		for _, r := range page.Repeats {
			fmt.Fprintln(&b, line(&r), "(repeat)")
		}
		fmt.Fprintf(&b, "cursor %s", page.Cursor)
		if page.More {
			b.WriteString(" and more")
		}
	case "list":
		q := ListQuery{UID: im.UID(words[0]), Limit: limit}
		if len(words) > 1 {
			q.Cursor = s.lists[words[0]]
		}
		page := s.view.List(q)
		s.lists[words[0]] = page.Cursor
		for _, r := range page.Rows {
			last := "nothing"
			if r.Last != nil {
				last = line(r.Last)
			}
			fmt.Fprintf(&b, "%s %q member=%v head=%s unread=%d last: %s\n", r.Conversation[:2], r.Title, r.Member, r.Head, r.Unread, last)
		}
		if page.More {
			b.WriteString("and more")
		}
	case "members":
		g := s.view.Group(im.Conversation(words[0]))
		return fmt.Sprintf("%q %v", g.Title(), g.Members())
	default:
		s.t.Fatalf("unknown command %q", d.Cmd)
	}
	return b.String()
}

func line(r *im.Record) string {
	var text wire.Text
	what := string(r.Kind)
	if r.Kind == im.KindMessage && proto.Unmarshal(r.Body, &text) == nil && text.Text != "" {
		what = strconv.Quote(text.Text)
	}
	return fmt.Sprintf("%s/%d at %d: %s #%d %s", r.Place.Origin, r.Place.Seq, r.Place.Stamp, r.Sender, r.ClientID[15], what)
}

// line appends one line to an origin's log and applies it.
func (s *scripted) line(o im.Origin, text string) {
	f := strings.Fields(names.Replace(text))
	stamp, err := strconv.ParseUint(f[0], 10, 63)
	if err != nil {
		s.t.Fatalf("%q: %v", text, err)
	}
	c, rest := im.Conversation(f[1]), f[4:]
	p := im.Partition{Topic: im.MsgTopic(o, c.Lane())}
	var e im.Entry
	if kind := f[3]; kind == "read" || kind == "delivered" {
		cursor, err := im.ParseCursor(f[4])
		if err != nil {
			s.t.Fatal(err)
		}
		p.Topic = im.ReadTopic(o)
		cursors := wire.Cursors{Conversation: c, UID: im.UID(f[2]), Read: cursor}
		if kind == "delivered" {
			cursors.Delivered, cursors.Read = cursors.Read, nil
		}
		e = wire.EncodeCursors(cursors, o, im.Stamp(stamp))
	} else {
		e = s.record(o, im.Stamp(stamp), c, f, rest)
	}
	e.Partition, e.Offset = p, s.ends[p]
	s.ends[p]++
	tail, err := NewTail(s.view.Position(p), 1)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := tail.Take(&e); err != nil {
		s.t.Fatal(err)
	}
	if err := s.view.Apply([]Part{cutAndNumber(s.view, tail)}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scripted) record(o im.Origin, stamp im.Stamp, c im.Conversation, f, rest []string) im.Entry {
	r := im.Record{
		ID:   im.ID{Conversation: c, Sender: im.UID(f[2]), ClientID: im.UUID{6: 0x70, 8: 0x80}},
		Kind: im.Kind(f[4]), Version: 1, Place: im.Place{Stamp: stamp, Origin: o},
	}
	fmt.Sscanf(f[3], "#%d", &r.ClientID[15])
	rest = rest[1:]
	var body proto.Message
	switch r.Kind {
	case im.KindMessage:
		body = &wire.Text{Text: strings.Join(rest, " ")}
	case im.KindCreate:
		body = &wire.Create{Title: rest[0], Members: rest[1:]}
	case im.KindSettings:
		body = &wire.Settings{Title: rest[0]}
	case im.KindMember:
		m := &wire.Member{}
		for _, w := range rest {
			if uid, ok := strings.CutPrefix(w, "+"); ok {
				m.Add = append(m.Add, uid)
			} else if uid, ok := strings.CutPrefix(w, "-"); ok {
				m.Remove = append(m.Remove, uid)
			}
		}
		body = m
	default:
		r.Body = []byte(strings.Join(rest, " "))
		return wire.EncodeRecord(&r)
	}
	var err error
	if r.Body, err = wire.Marshal(body); err != nil {
		s.t.Fatal(err)
	}
	return wire.EncodeRecord(&r)
}
