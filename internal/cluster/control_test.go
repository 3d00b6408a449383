package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// ordered notes orders. It knows eu/kafka.
type ordered struct{ orders []string }

func (o *ordered) note(order, target string) error {
	switch target {
	case "eu/kafka":
		o.orders = append(o.orders, order)
		return nil
	case "eu/broken":
		return errors.New("it does not work")
	}
	return fmt.Errorf("part %q: %w", target, ErrUnknown)
}

func (o *ordered) Status() []Status {
	return []Status{{Name: "eu/kafka", State: StateUp, Ready: true, PID: 7}}
}

func (o *ordered) Links() []LinkStatus {
	return []LinkStatus{{From: "eu", To: "us", Delay: time.Second}}
}
func (o *ordered) Kill(_ context.Context, t string) error        { return o.note("kill", t) }
func (o *ordered) Stop(_ context.Context, t string) error        { return o.note("stop", t) }
func (o *ordered) Start(_ context.Context, t string) error       { return o.note("start", t) }
func (o *ordered) Restart(_ context.Context, t string) error     { return o.note("restart", t) }
func (o *ordered) Pause(_ context.Context, target string) error  { return o.note("pause", target) }
func (o *ordered) Resume(_ context.Context, target string) error { return o.note("resume", target) }
func (o *ordered) Wipe(_ context.Context, target string) error   { return o.note("wipe", target) }
func (o *ordered) Clock(_ context.Context, target string, offset time.Duration) error {
	return o.note("clock "+offset.String(), target)
}

func (o *ordered) AddRegion(_ context.Context, r Region, progress func(string)) error {
	progress("adding " + string(r.Name) + " at " + r.Host)
	if r.Name == "mars" {
		return errors.New("too far away")
	}
	progress("it serves")
	return nil
}

func TestRemote(t *testing.T) {
	o := new(ordered)
	downs := 0
	server := httptest.NewServer(Handler(o, o, func() { downs++ }))
	defer server.Close()
	r := &Remote{URL: server.URL, Header: "X-Some"}
	ctx := t.Context()
	all := []string{"kill", "stop", "start", "restart", "pause", "resume", "wipe"}
	for _, order := range all {
		if err := r.Order(ctx, order, "eu/kafka"); err != nil {
			t.Errorf("%s: %v", order, err)
		}
	}
	if err := r.Clock(ctx, "eu/kafka", -4*time.Second); err != nil {
		t.Errorf("clock: %v", err)
	}
	if err := r.WaitReady(ctx); err != nil {
		t.Errorf("ready: %v", err)
	}
	if got, want := strings.Join(o.orders, " "), strings.Join(all, " ")+" clock -4s"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, c := range []struct{ order, target, want string }{
		{"kill", "eu/nobody", `part "eu/nobody": unknown`},
		{"kill", "eu/broken", "it does not work"},
		{"explode", "eu/kafka", `order "explode": want kill, stop, start, restart, pause, resume or wipe`},
	} {
		if err := r.Order(ctx, c.order, c.target); err == nil || err.Error() != c.want {
			t.Errorf("%s %s: got %v, want %s", c.order, c.target, err, c.want)
		}
	}
	var said []string
	hear := func(line string) { said = append(said, line) }
	if err := r.AddRegion(ctx, Region{Name: "sa", Host: "127.0.0.14"}, hear); err != nil || strings.Join(said, "; ") != "adding sa at 127.0.0.14; it serves" {
		t.Errorf("a region was added with %q, %v", said, err)
	}
	if err := r.AddRegion(ctx, Region{Name: "mars"}, hear); err == nil || err.Error() != "too far away" {
		t.Errorf("another with %v", err)
	}
	ps, err := r.PS(ctx)
	if err != nil || len(ps.Members) != 1 || ps.Members[0].PID != 7 || ps.Links[0].Delay != time.Second {
		t.Errorf("got %+v, %v", ps, err)
	}
	if err := r.Down(ctx); err != nil || downs != 1 {
		t.Errorf("down: %v, %d", err, downs)
	}
}

func TestFindNone(t *testing.T) {
	if _, err := Find(t.TempDir(), ""); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}
