package imserver

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a batch changed is remembered until it is committed, however much else is asked for meanwhile: the store has the
// group and the heads of before.
func TestRemembersWhatIsNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store, router := newFakeLog(), newFakeStore(1), &fakeRouter{}
		log.create("eu", 1)
		var hangs atomic.Bool
		store.step = func(ctx context.Context, what string) error {
			for hangs.Load() && what == "before apply" && ctx.Err() == nil {
				pass(time.Second)
			}
			return ctx.Err()
		}
		cfg, deps := minimal(log, store, newFakeOwnership(0))
		cfg.CachedConversations, cfg.BatchRows, deps.Deliver = 4, 20, router
		s, end := running(t, cfg, deps)
		synctest.Wait()
		submit := func(as im.UID, c string, r *wire.SubmitRequest) error {
			r.Conversation, r.ClientId = c, im.NewUUID(time.Now()).String()
			body, err := wire.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Call(t.Context(), im.Call{Method: wire.MethodSubmit, UID: as, Body: body})
			return err
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		text := func() *wire.SubmitRequest {
			return &wire.SubmitRequest{Content: &wire.SubmitText{Text: &wire.Text{Text: "x"}}}
		}
		must(submit("ann", scriptGroup, &wire.SubmitRequest{Content: &wire.SubmitCreate{Create: &wire.Create{Title: "pets", Members: []string{"bob"}}}}))
		pass(time.Second)
		hangs.Store(true)
		must(submit("ann", scriptGroup, &wire.SubmitRequest{Content: &wire.SubmitMember{Member: &wire.Member{Remove: []string{"bob"}}}}))
		pass(time.Second)
		for i := range 5000 {
			body, _ := wire.Marshal(&wire.PullRequest{Conversation: fmt.Sprintf("g:eu:00dc6acf-ac00-7000-8000-00000001%04x", i)})
			if _, err := s.Call(t.Context(), im.Call{Method: wire.MethodPull, UID: "cat", Body: body}); im.CodeOf(err) != im.CodeNotYetHere {
				t.Fatal(err)
			}
		}
		if err := submit("bob", scriptGroup, text()); im.CodeOf(err) != im.CodeNotMember {
			t.Errorf("one who was removed sends: %v, want not_member", err)
		}
		// The next batch goes beyond what is cached; it is numbered before the one with the removal is committed.
		for i := range 10 {
			must(submit("ann", fmt.Sprintf("d:ann:bob%d", i), text()))
		}
		must(submit("ann", scriptGroup, text()))
		pass(time.Second)
		hangs.Store(false)
		pass(time.Minute)
		var last im.Delivery
		for _, d := range router.take() {
			if d.Key == scriptGroup {
				last = d
			}
		}
		if got := event(t, last.Body); !strings.HasPrefix(got, "eu/3 ") {
			t.Errorf("the last of the group was delivered as %q, want eu/3", got)
		}
		if got := fmt.Sprint(last.Recipients); got != "[ann]" {
			t.Errorf("it was delivered to %s, want [ann]", got)
		}
		if n := s.shards.get(0).Held(); n > 0 {
			t.Errorf("%d heads and groups are held although all is committed", n)
		}
		must(end())
	})
}
