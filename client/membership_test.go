package client

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const pets = im.Conversation("g:eu:00dc6acf-ac00-7000-8000-000000000001")

// membership adds a record that adds or removes ann.
func (w *world) membership(o im.Origin, add bool) *wire.Record {
	m := &wire.Member{Add: []string{"ann"}}
	if !add {
		m = &wire.Member{Remove: []string{"ann"}}
	}
	return w.append(o, "bob", &wire.SubmitRequest{
		Conversation: string(pets), ClientId: im.NewUUID(time.Now()).String(), Content: &wire.SubmitMember{Member: m},
	})
}

func (w *world) ends(c im.Conversation, at im.Cursor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left[c] = at
}

func (w *world) pulled() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pulls := range w.pulls {
		n += pulls
	}
	return n
}

// Somebody who was removed while offline gets what was said before.
func TestRemovedWhileOffline(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.gateway("e1", "eu")
		w.membership("eu", true)
		w.say("eu", pets, "bob", "before")
		w.membership("eu", false)
		w.say("eu", pets, "bob", "after")
		w.ends(pets, im.Cursor{"eu": 3})
		r := w.client(nil)
		defer r.end()
		eventually(t, 5*time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		if got := r.inserted(); !slices.Equal(got, []string{"", "before", ""}) {
			t.Errorf("inserted %q", got)
		}
	})
}

// A list promised eu=10. Then a removal arrives from us, with an earlier place: pulls end at eu=5, and nobody asks for the rest for ever.
func TestRemovalWithAnEarlierPlace(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		w.membership("eu", true)
		for n := range 9 {
			w.say("eu", pets, "bob", fmt.Sprint(n))
		}
		once := true
		eu.script(func() {
			eu.onPull = func(bool) time.Duration {
				eu.script(func() {
					if once {
						once = false
						w.membership("us", false)
						w.ends(pets, im.Cursor{"eu": 5, "us": 1})
					}
				})
				return 0
			}
		})
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Minute, "the removal", func() bool { return r.Cursor(pets)["us"] == 1 })
		r.Sync()
		eventually(t, time.Minute, "caught up twice", func() bool { return r.took(CaughtUp{}) == 2 })
		pass(time.Minute)
		before := w.pulled()
		pass(time.Hour)
		synctest.Wait()
		if after := w.pulled(); after > before {
			t.Errorf("pulled %d times more", after-before)
		}
		// A push from beyond, of a region that has not heard of the removal, changes nothing for long.
		eu.push(w.log(pets, "eu")[8], "eu")
		pass(time.Minute)
		before = w.pulled()
		pass(time.Hour)
		synctest.Wait()
		if after := w.pulled(); after > before {
			t.Errorf("pulled %d times more after a push", after-before)
		}
		if got, want := r.Cursor(pets), (im.Cursor{"eu": 5, "us": 1}); got.String() != want.String() {
			t.Errorf("cursor %v", got)
		}
	})
}

// Two regions add ann while they cannot hear each other. Between the additions somebody spoke: it was hidden, and covered, until
// the earlier addition was heard of.
func TestEarlierAddition(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		us := w.gateway("u1", "us")
		earlier := w.membership("ap", true)
		said := w.say("eu", pets, "bob", "between")
		w.membership("us", true)
		w.holds("us", pets, im.Cursor{"eu": 1, "us": 1}) // nothing of ap was heard
		heard := false
		w.hidden = func(_ im.Region, r *wire.Record) bool { return r == said && !heard }
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		if got := r.inserted(); !slices.Equal(got, []string{""}) || r.Cursor(pets).String() != "eu=1,us=1" {
			t.Fatalf("inserted %q at %v", got, r.Cursor(pets))
		}
		w.mu.Lock()
		heard = true
		w.mu.Unlock()
		w.holds("us", pets, nil)
		us.push(earlier, "us")
		eventually(t, 10*time.Second, "what was said between", func() bool { return slices.Contains(textsOf(r.Messages(pets)), "between") })
		pass(time.Minute)
		before := w.pulled()
		pass(10 * time.Minute)
		synctest.Wait()
		if after := w.pulled(); after > before {
			t.Errorf("pulled %d times more", after-before)
		}
		if got := r.inserted(); len(got) != 3 {
			t.Errorf("inserted %q", got)
		}
	})
}
