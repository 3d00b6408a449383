package browser

import (
	"context"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/test/browser/fakedev"
)

// fake starts a world of three regions and the pages over it.
func fake(t *testing.T) (*fakedev.World, string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	world := fakedev.New(20*time.Millisecond, "ap", Here, There)
	if err := world.Start(ctx); err != nil {
		t.Fatal(err)
	}
	// From the folder, not embedded: that has the unit tests of the modules too.
	handler, err := world.HandlerWith(console.Config{Files: os.DirFS("../../web")})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		stop()
		world.Wait()
	})
	return world, server.URL
}

// eventually waits until what the world knows is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(Wait); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestPages runs what also runs over `antipode dev`.
func TestPages(t *testing.T) {
	b := Start(t)
	for name, scenario := range map[string]func(*testing.T, *Browser, string){
		"talk": Talk, "group": Group, "gateway kill": GatewayKill, "cut link": CutLink, "region kill": RegionKill,
		"global ack": GlobalAck, "trace": Trace, "console by keyboard": ConsoleByKeyboard, "themes": Themes, "names": Names,
	} {
		t.Run(name, func(t *testing.T) {
			_, base := fake(t)
			scenario(t, b, base)
		})
	}
}

// TestModules runs the unit tests of the pure modules in the page.
func TestModules(t *testing.T) {
	b := Start(t)
	_, base := fake(t)
	p := b.Open(t, base+"/")
	results := Eval[[]struct {
		Name  string `json:"name"`
		Error string `json:"error"`
	}](p, `import("/test/unit.js").then((m) => m.run())`)
	if len(results) < 20 {
		t.Errorf("%d tests ran", len(results))
	}
	for _, r := range results {
		t.Run(r.Name, func(t *testing.T) {
			if r.Error != "" {
				t.Error(r.Error)
			}
		})
	}
}

// TestClientDuties checks what only a fake can make happen at the right moment.
func TestClientDuties(t *testing.T) {
	b := Start(t)
	conversation := string(im.Direct("ann", "bob"))
	say := func(t *testing.T, w *fakedev.World, r im.Region, uid im.UID, text string) {
		t.Helper()
		if _, err := w.Say(r, uid, conversation, text); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("a dropped socket resumes", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		say(t, world, There, "ann", "one")
		bob.Shows("one")
		for i, text := range []string{"two", "three"} {
			world.Drop(There, "bob")
			say(t, world, There, "ann", text)
			bob.Shows([]string{"one", "two", "three"}[:i+2]...)
			bob.Online(There)
			if got := world.Resumes(); got != i+1 {
				t.Errorf("%d resumes after %d losses", got, i+1)
			}
		}
	})

	t.Run("lost pushes are pulled", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		say(t, world, There, "ann", "one")
		bob.Shows("one")
		world.Lose(There, "bob", 2)
		for _, text := range []string{"two", "three", "four"} {
			say(t, world, There, "ann", text)
		}
		bob.Shows("one", "two", "three", "four")
	})

	t.Run("silence is filled by a pull", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		say(t, world, There, "ann", "one")
		bob.Shows("one")
		world.Lose(There, "bob", 1000)
		say(t, world, There, "ann", "two") // nothing comes through after it: only the policy's fallback finds it
		bob.Shows("one", "two")
	})

	t.Run("a notify ahead of its log is filled from the origin", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		say(t, world, There, "ann", "one")
		bob.Shows("one")
		if err := world.Cut(t.Context(), Here, There); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"two", "three", "four"} {
			say(t, world, Here, "ann", text)
		}
		world.Hint(Here, There, "bob", conversation) // "four" alone; There has none of the three
		bob.Shows("one", "two", "three", "four")
		if err := world.Heal(t.Context(), Here, There); err != nil {
			t.Fatal(err)
		}
		say(t, world, Here, "ann", "five")
		bob.Shows("one", "two", "three", "four", "five")
	})

	t.Run("the own region's pull is cancelled once the origin has filled the gap", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		say(t, world, There, "ann", "one")
		bob.Shows("one")
		if err := world.Cut(t.Context(), Here, There); err != nil {
			t.Fatal(err)
		}
		world.Stall(There, true)
		say(t, world, Here, "ann", "two")
		say(t, world, Here, "ann", "three")
		world.Hint(Here, There, "bob", conversation)
		bob.Shows("one", "two", "three")
		eventually(t, "the pull is taken back", func() bool { return world.Cancels() == 1 })
	})

	t.Run("a repeat shows once", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		id, err := world.Say(There, "ann", conversation, "once")
		if err != nil {
			t.Fatal(err)
		}
		if err := world.SayAs(Here, "ann", conversation, "once", id); err != nil {
			t.Fatal(err)
		}
		say(t, world, Here, "ann", "end")
		bob.Shows("once", "end")
		bob.Go(base + "/?as=bob&region=" + There + "&to=ann")
		bob.Shows("once", "end")
	})

	t.Run("goaway moves to another gateway", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		gateway := bob.Gateway()
		Eval[any](bob.Page, `(() => {
			window.phases = [];
			new MutationObserver(() => phases.push(document.getElementById("status").dataset.phase)).observe(document.getElementById("status"), { attributes: true });
		})()`)
		world.Goaway(There, "bob", 200*time.Millisecond)
		bob.Moves(gateway)
		say(t, world, There, "ann", "still here")
		bob.Shows("still here")
		bob.Until("it was online all the time", `phases.every((phase) => phase === "online")`)
		if n := world.Sessions(There, "bob"); n != 1 {
			t.Errorf("bob has %d sessions after moving", n)
		}
	})

	t.Run("two tabs of one user are two devices", func(t *testing.T) {
		world, base := fake(t)
		one := b.OpenChat(t, base, "bob", There, "ann")
		two := b.OpenChat(t, base, "bob", Here, "ann")
		one.Send("from one")
		two.Shows("from one")
		two.Send("from two")
		one.Shows("from one", "from two")
		if h, th := world.Sessions(Here, "bob"), world.Sessions(There, "bob"); h != 1 || th != 1 {
			t.Errorf("sessions: %d here, %d there; want 1 and 1", h, th)
		}
	})

	t.Run("what is written offline goes out once", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		ann := b.OpenChat(t, base, "ann", Here, "bob")
		for _, r := range []im.Region{"ap", Here, There} {
			if err := world.Kill(t.Context(), console.Target{Region: r}); err != nil {
				t.Fatal(err)
			}
		}
		ann.Until("it is offline", `document.getElementById("status").dataset.phase !== "online"`)
		ann.Send("one")
		ann.Send("two")
		ann.Tick("two", "sending")
		// The page goes away and comes back: what was not sent is still there.
		ann.Go(base + "/?as=ann&region=" + Here + "&to=bob")
		ann.Tick("two", "sending")
		for _, r := range []im.Region{"ap", Here, There} {
			if err := world.Restart(t.Context(), console.Target{Region: r}); err != nil {
				t.Fatal(err)
			}
		}
		ann.Shows("one", "two")
		bob.Shows("one", "two")
		ann.Tick("two", "read")
	})

	t.Run("where no WebSocket lasts it goes on by long poll, and back", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		say(t, world, There, "ann", "one")
		bob.Shows("one")
		world.Block(false)
		bob.By(There, "long poll")
		say(t, world, There, "ann", "two")
		bob.Send("three")
		bob.Tick("three", "accepted")
		bob.Shows("one", "two", "three")
		world.Drop(There, "bob") // the poll is lost as a socket is
		say(t, world, There, "ann", "four")
		bob.Shows("one", "two", "three", "four")
		world.Unblock()
		bob.By(There, "WebSocket")
		say(t, world, There, "ann", "five")
		bob.Shows("one", "two", "three", "four", "five")
		if n, resumes := world.Sessions(There, "bob"), world.Resumes(); n != 1 || resumes < 3 {
			t.Errorf("bob has %d sessions after %d resumes, want one that each connection took up", n, resumes)
		}
	})

	t.Run("where nothing lasts it goes over HTTP", func(t *testing.T) {
		world, base := fake(t)
		bob := b.OpenChat(t, base, "bob", There, "ann")
		ann := b.OpenChat(t, base, "ann", Here, "bob")
		ann.Send("one")
		bob.Shows("one")
		world.Block(true)
		bob.Until("it says so", `document.querySelector("#status .words").textContent.includes("No live connection")`)
		bob.Send("two")
		bob.Send("three")
		bob.Tick("three", "accepted")
		ann.Shows("one", "two", "three")
		bob.Tick("three", "read")
		world.Unblock()
		// In whichever region the race was at that moment.
		bob.Until("it is online", `document.getElementById("status").dataset.phase === "online"`)
		ann.Send("four")
		bob.Shows("one", "two", "three", "four")
	})

	t.Run("a refusal is shown and can be tried again", func(t *testing.T) {
		world, base := fake(t)
		ann := b.OpenChat(t, base, "ann", Here, "bob")
		world.Refuse(1)
		ann.Send("no")
		ann.Tick("no", "failed")
		ann.Click(".failure button")
		ann.Tick("no", "accepted")
		ann.Shows("no")
	})
}
