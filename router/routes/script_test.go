package routes_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// script runs the commands of testdata/scripts against one table with one partition.
type script struct {
	table *routes.Table
	next  map[im.Origin]int64
}

// at reads a time as an offset from noon of the day the script plays on.
func at(t *testing.T, s string) im.Stamp {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("at: %v", err)
	}
	return im.StampAt(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(d))
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	text := func(name string) string {
		var v string
		if d.HasArg(name) {
			d.ScanArgs(t, name, &v)
		}
		return v
	}
	number := func(name string) uint64 {
		var v uint64
		if d.HasArg(name) {
			d.ScanArgs(t, name, &v)
		}
		return v
	}
	now := func() im.Stamp {
		if v := text("at"); v != "" {
			return at(t, v)
		}
		return at(t, "0s")
	}
	part := func(o im.Origin) im.Partition { return im.Partition{Topic: im.RouteTopic(o)} }
	switch d.Cmd {
	case "table":
		var origins []im.Origin
		for _, o := range strings.Split(text("origins"), "/") {
			origins = append(origins, im.Origin(o))
		}
		silence, _ := time.ParseDuration(text("silence"))
		table, err := routes.New(im.Region(text("self")), origins, 1, silence)
		if err != nil {
			return "error: " + err.Error()
		}
		s.table, s.next = table, make(map[im.Origin]int64)
		if limits := text("limits"); limits != "" {
			devices := make(map[im.Platform]int)
			for _, l := range strings.Split(limits, "/") {
				platform, n, _ := strings.Cut(l, ":")
				if devices[im.Platform(platform)], err = strconv.Atoi(n); err != nil {
					t.Fatal(err)
				}
			}
			table.Limit(devices)
		}
		for _, o := range table.Origins() {
			s.table.Expect(part(o), 0)
		}
		return fmt.Sprint(table.Origins())
	case "expect":
		s.table.Expect(part(im.Origin(text("origin"))), int64(number("end")))
		return ""
	case "claim", "release", "gateway_down", "heartbeat", "hold":
		o := im.Origin(text("origin"))
		offset := s.next[o]
		if d.HasArg("offset") {
			offset = int64(number("offset"))
		}
		s.next[o] = max(s.next[o], offset+1)
		e := routes.Entry{Local: offset, Generation: uint32(number("generation"))}
		e.Kind = im.Kind(d.Cmd)
		e.Route = im.Route{
			UID: im.UID(text("uid")), Device: im.DeviceID(text("device")), Platform: im.Platform(text("platform")), Region: o.Region(),
			Gateway: im.Gateway{ID: text("gw"), Epoch: max(number("epoch"), 1)}, Conn: number("conn"), Login: number("login"),
			Offset: offset, Claimed: now(), Offline: text("offline") == "yes",
		}
		if since := text("since"); since != "" {
			e.Since = at(t, since)
		}
		arrives := now()
		if v := text("now"); v != "" {
			arrives = at(t, v)
		}
		res := s.table.Apply(part(o), []routes.Entry{e}, arrives)
		var out []string
		switch {
		case res.Skipped > 0:
			out = append(out, "skipped")
		case res.Ahead > 0:
			out = append(out, "ahead")
		}
		for _, k := range res.Kicks {
			out = append(out, fmt.Sprintf("kick %s conn=%d login=%d %s", k.Gateway.ID, k.Conn, k.Login, k.Code))
		}
		for _, gw := range res.Down {
			out = append(out, fmt.Sprintf("down %s epoch<=%d", gw.ID, gw.Epoch))
		}
		return strings.Join(out, "\n")
	case "jump":
		s.table.Jump(part(im.Origin(text("origin"))), int64(number("local")))
		return ""
	case "gaps":
		patience, _ := time.ParseDuration(text("patience"))
		var out []string
		for _, g := range s.table.Gaps(now(), patience) {
			out = append(out, fmt.Sprintf("%v wants %d, has %d", g.Partition, g.Next, g.Local))
		}
		return strings.Join(out, "\n")
	case "reach":
		var out []string
		for _, r := range s.table.Reaches(now()) {
			out = append(out, fmt.Sprintf("%s cut=%d suppressed=%v flaps=%d", r.Region, r.Cut, r.Suppressed, r.Flaps))
		}
		return strings.Join(out, "\n")
	case "prune":
		return fmt.Sprint(s.table.Prune())
	case "position":
		p, ok := s.table.Position(part(im.Origin(text("origin"))))
		return fmt.Sprintf("%+v %v", p, ok)
	case "lookup", "rows":
		uid := im.UID(text("uid"))
		all := s.table.Rows(uid, now())
		if d.Cmd == "lookup" {
			all = s.table.Lookup(nil, uid, now())
		}
		var out []string
		for _, r := range all {
			line := fmt.Sprintf("%s %s %s/%d conn=%d login=%d", r.Device, r.Region, r.Gateway.ID, r.Gateway.Epoch, r.Conn, r.Login)
			if r.Offline {
				line += " offline"
			}
			out = append(out, line)
		}
		slices.Sort(out)
		if unknown := s.table.Unknown(0, now()); d.Cmd == "lookup" && len(unknown) > 0 {
			out = append(out, fmt.Sprintf("unknown: %v", unknown))
		}
		return strings.Join(out, "\n")
	}
	t.Fatalf("unknown command %q", d.Cmd)
	return ""
}
