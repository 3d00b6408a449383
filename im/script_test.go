package im_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/antipode-im/antipode/im"
)

// TestScripts runs the text scripts in testdata. Each input line is one call; its answer stands at the same line below.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		clock := &im.Clock{}
		follower := &im.Follower{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				line = strings.TrimSuffix(line, "\n")
				answer, err := command(t, d, line, clock, follower)
				switch e, ok := errors.AsType[*im.Error](err); {
				case ok:
					answer = "error " + e.Error()
				case err != nil:
					answer = "error: " + err.Error()
				}
				fmt.Fprintln(&out, strings.TrimRight(answer, " "))
			}
			return out.String()
		})
	})
}

func command(t *testing.T, d *datadriven.TestData, line string, clock *im.Clock, follower *im.Follower) (string, error) {
	arg := func(key string) string {
		var v string
		d.MaybeScanArgs(t, key, &v)
		return v
	}
	words := strings.Fields(line)
	switch d.Cmd {
	case "clock": // now-in-ms seen-ms+counter
		now, seen := number(t, words[0]), im.Stamp(0)
		if len(words) > 1 {
			ms, counter, _ := strings.Cut(words[1], "+")
			seen = im.StampAt(time.UnixMilli(number(t, ms))) + im.Stamp(number(t, counter))
		}
		s, err := clock.Next(time.UnixMilli(now), seen, im.MaxSkew)
		return fmt.Sprintf("%d+%d", s.Millis(), s.Counter()), err
	case "raise":
		clock.Raise(im.StampAt(time.UnixMilli(number(t, words[0]))))
		return "ok", nil
	case "cursor":
		c, err := im.ParseCursor(unquote(line))
		return fmt.Sprintf("%q", c.String()), err
	case "list-cursor":
		c, err := im.ParseListCursor(unquote(line))
		return fmt.Sprintf("%q", c.String()), err
	case "merge", "cut", "covers-all":
		a, b, _ := strings.Cut(line, " ")
		c, d2 := cursor(t, a), cursor(t, b)
		switch d.Cmd {
		case "merge":
			return fmt.Sprintf("%q", c.Merge(d2).String()), nil
		case "cut":
			return fmt.Sprintf("%q", c.Cut(d2).String()), nil
		}
		return strconv.FormatBool(c.CoversAll(d2)), nil
	case "covers":
		return strconv.FormatBool(cursor(t, arg("cursor")).Covers(im.Origin(words[0]), uint64(number(t, words[1])))), nil
	case "places": // in any order → sorted
		p, err := im.ParsePlace(words[0])
		if err != nil {
			return "", err
		}
		if len(words) == 1 {
			return p.String(), nil
		}
		q, err := im.ParsePlace(words[1])
		return []string{"after", "same", "before"}[1-p.Compare(q)], err
	case "conversation":
		c, err := im.ParseConversation(unquote(line))
		if err != nil {
			return "", err
		}
		o, ms, ok := c.Created()
		created := ""
		if ok {
			created = fmt.Sprintf(" created in %s at %d", o, ms)
		}
		return fmt.Sprintf("%s %v%s", c.Lane(), c.Members(), created), nil
	case "direct":
		return string(im.Direct(im.UID(words[0]), im.UID(words[1]))), nil
	case "uuid":
		u, err := im.ParseUUID(unquote(line))
		return fmt.Sprintf("v7=%v ms=%d", u.IsV7(), u.Millis()), err
	case "topic":
		f, o, err := im.ParseTopic(unquote(line))
		return fmt.Sprintf("%s of %s, region %s epoch %d", f, o, o.Region(), o.Epoch()), err
	case "topics":
		return strings.Join(im.Topics(im.Origin(line)), " "), nil
	case "partition":
		p, err := im.ParsePartition(unquote(line))
		return fmt.Sprintf("%v of %s", p, p.Origin()), err
	case "origin":
		o, err := im.ParseOrigin(unquote(line))
		return fmt.Sprintf("%s epoch %d", o.Region(), o.Epoch()), err
	case "uid":
		_, err := im.ParseUID(unquote(line))
		return "ok", err
	case "follow": // offset[@generation] or hold@generation
		offset, gen, _ := strings.Cut(words[0], "@")
		generation := uint32(0)
		if gen != "" {
			generation = uint32(number(t, gen))
		}
		seal, final := strings.CutPrefix(offset, "seal:")
		marker, n := true, im.HoldOffset
		switch {
		case final:
			n = im.SealOffset(number(t, seal))
		case offset != "hold":
			marker, n = false, number(t, offset)
		}
		v := follower.See(n, generation, marker)
		return fmt.Sprintf("%s, next %d@%d", []string{"take", "skip", "gap", "raise", "seal", "part"}[v], follower.Next, follower.Generation), nil
	case "follower":
		offset, gen, _ := strings.Cut(words[0], "@")
		*follower = im.Follower{Next: number(t, offset), Generation: uint32(number(t, gen))}
		return "ok", nil
	case "code":
		s := im.Code(line).Spec()
		return fmt.Sprintf("%s close=%d http=%d", s.Action, s.Close, s.HTTP), nil
	case "close":
		return string(im.CodeOfClose(int(number(t, words[0])))), nil
	}
	t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	return "", nil
}

// unquote lets a script write white space and odd bytes.
func unquote(s string) string {
	if u, err := strconv.Unquote(s); err == nil {
		return u
	}
	return s
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func cursor(t *testing.T, s string) im.Cursor {
	t.Helper()
	c, err := im.ParseCursor(unquote(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
