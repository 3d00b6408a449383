package await

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, looks := time.Now(), 0
		if err := Within(t.Context(), time.Minute, time.Second, func() (bool, string) { looks++; return looks == 4, "more" }); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); looks != 4 || took != 3*time.Second {
			t.Errorf("%d looks in %v", looks, took)
		}
		begun = time.Now()
		err := Within(t.Context(), 5*time.Second, time.Second, func() (bool, string) { return false, "the door is shut" })
		if took := time.Since(begun); err == nil || took != 5*time.Second {
			t.Errorf("%v after %v", err, took)
		} else if !strings.Contains(err.Error(), "the door is shut") || !strings.Contains(err.Error(), "5s have passed") {
			t.Errorf("it does not say what was missing, and for how long: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := State(ctx, time.Minute, func() (bool, string) { return false, "" }); !errors.Is(err, context.Canceled) {
			t.Errorf("when its caller gave up: %v", err)
		}
	})
}

func TestMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		for _, d := range []time.Duration{time.Hour, 0, -time.Hour} {
			if err := Moment(t.Context(), begun.Add(d)); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took != time.Hour {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Moment(ctx, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
			t.Errorf("when its caller gave up: %v", err)
		}
	})
}
