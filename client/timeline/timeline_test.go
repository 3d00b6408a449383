package timeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const conversation = im.Conversation("d:ann:bob")

// number makes a client_id that a script can write as a small number.
func number(n int) im.UUID {
	u, err := im.ParseUUID(fmt.Sprintf("01890000-0000-7000-8000-%012d", n))
	if err != nil {
		panic(err)
	}
	return u
}

// record reads "eu/3@100 ann#7 text…": origin/seq@stamp sender#client_id text; no text is a record that shows nothing.
func record(line string) (*wire.Record, error) {
	var stamp, seq uint64
	head, text, _ := strings.Cut(line, " ")
	sender, text, _ := strings.Cut(text, " ")
	origin, rest, _ := strings.Cut(head, "/")
	if _, err := fmt.Sscanf(rest, "%d@%d", &seq, &stamp); err != nil {
		return nil, fmt.Errorf("%q: %w", line, err)
	}
	sender, id, _ := strings.Cut(sender, "#")
	n, err := strconv.Atoi(id)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", line, err)
	}
	r := &wire.Record{
		Conversation: string(conversation), Kind: "message", Version: 1, Sender: sender, ClientId: number(n).String(),
		Stamp: stamp, Origin: origin, Seq: seq,
	}
	if text != "" {
		r.Content = &wire.RecordText{Text: &wire.Text{Text: text}}
	}
	return r, nil
}

func describe(m Message) string {
	return fmt.Sprintf("%s/%d@%d %s %s", m.Place.Origin, m.Place.Seq, m.Place.Stamp, m.Sender, m.Text)
}

func report(changes []Change, err error) string {
	var b strings.Builder
	for _, c := range changes {
		switch c.Kind {
		case Inserted:
			fmt.Fprintf(&b, "inserted at %d: %s\n", c.Index, describe(c.Message))
		case Moved:
			fmt.Fprintf(&b, "moved from %d to %d: %s\n", c.From, c.Index, describe(c.Message))
		case Trimmed:
			fmt.Fprintf(&b, "trimmed %d\n", c.Count)
		}
	}
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		tl := New(conversation, Limits{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			lines := strings.Split(strings.TrimSpace(d.Input), "\n")
			switch d.Cmd {
			case "new":
				var l Limits
				d.MaybeScanArgs(t, "keep", &l.Keep)
				d.MaybeScanArgs(t, "ahead", &l.Ahead)
				tl = New(conversation, l)
				return ""
			case "push":
				var out strings.Builder
				for _, line := range lines {
					r, err := record(line)
					if err != nil {
						return err.Error()
					}
					out.WriteString(report(tl.Add(r)))
				}
				return out.String()
			case "page", "again":
				page := &wire.PullResponse{}
				d.MaybeScanArgs(t, "cursor", &page.Cursor)
				for _, line := range lines {
					repeat, is := strings.CutPrefix(line, "repeat ")
					if line == "" {
						continue
					}
					r, err := record(repeat)
					if err != nil {
						return err.Error()
					}
					if !is {
						page.Records = append(page.Records, r)
						continue
					}
					page.Repeats = append(page.Repeats, &wire.Repeat{
						Sender: r.Sender, ClientId: r.ClientId, Stamp: r.Stamp, Origin: r.Origin, Seq: r.Seq,
					})
				}
				if d.Cmd == "again" {
					return report(tl.AddAgain(page))
				}
				return report(tl.AddPage(page))
			case "want":
				c, err := im.ParseCursor(d.CmdArgs[0].String())
				if err != nil {
					return err.Error()
				}
				tl.Want(c)
				return ""
			case "skip":
				c, err := im.ParseCursor(d.CmdArgs[0].String())
				if err != nil {
					return err.Error()
				}
				tl.Skip(c)
				return ""
			case "unwant":
				tl.Unwant()
				return ""
			case "show":
				var b strings.Builder
				for _, m := range tl.Messages() {
					b.WriteString(describe(m) + "\n")
				}
				fmt.Fprintf(&b, "cursor %v, seen %d, complete %v\n", tl.Cursor(), uint64(tl.Seen()), tl.Complete())
				for _, g := range tl.Missing() {
					fmt.Fprintf(&b, "missing %s %d to %d\n", g.Origin, g.From, g.To)
				}
				return b.String()
			}
			return "unknown command " + d.Cmd
		})
	})
}

// apply does to a list what a consumer of changes does.
func apply(list []Message, changes []Change) []Message {
	for _, c := range changes {
		switch c.Kind {
		case Inserted:
			list = slices.Insert(list, c.Index, c.Message)
		case Moved:
			list = slices.Delete(list, c.From, c.From+1)
			list = slices.Insert(list, c.Index, c.Message)
		case Trimmed:
			list = slices.Delete(list, 0, c.Count)
		}
	}
	return list
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			records := make([]*wire.Record, n)
			for i := range records {
				records[i] = &wire.Record{
					Conversation: string(conversation), Kind: "message", Version: 1, Sender: "ann", ClientId: number(i).String(),
					Stamp: uint64(i), Origin: "eu", Seq: uint64(i + 1), Content: &wire.RecordText{Text: &wire.Text{Text: "x"}},
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				t := New(conversation, Limits{})
				for _, r := range records {
					if _, err := t.Add(r); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
		})
	}
}
