package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Two regions of whatever is behind the base URL: the scenarios below need no more.
const (
	Here  = "eu"
	There = "us"
)

// users are new for every run: the scenarios make no demands on what happened before.
func users(names ...string) []string {
	suffix := fmt.Sprintf("-%x", time.Now().UnixNano()&0xffffff)
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = name + suffix
	}
	return out
}

// Talk has two users of two regions talk, and follows the ticks.
func Talk(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob", "cho")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	bob := b.OpenChat(t, base, u[1], There, u[2])

	ann.Send("hello from " + Here)
	ann.Origin("hello from "+Here, Here)
	bob.Unread(u[0], 1)
	ann.Tick("hello from "+Here, "delivered")

	bob.Open(u[0])
	bob.Shows("hello from " + Here)
	bob.Unread(u[0], 0)
	ann.Tick("hello from "+Here, "read")

	stop := bob.Typing("and from")
	ann.Subtitle(u[1] + " is typing…")
	stop()
	bob.Type("#text", " "+There+"\r")
	ann.Subtitle("Direct chat")
	ann.Shows("hello from "+Here, "and from "+There)
	ann.Origin("and from "+There, There)
	bob.Tick("and from "+There, "read")
	stop = bob.Typing("never mind")
	ann.Subtitle(u[1] + " is typing…")
	stop()
	ann.Subtitle("Direct chat") // nothing was heard for a while

	// A reload shows the same, in the same order.
	bob.Go(base + "/?as=" + u[1] + "&region=" + There + "&to=" + u[0])
	bob.Shows("hello from "+Here, "and from "+There)
	bob.Tick("and from "+There, "read")
}

// Group makes a group, adds and removes a member.
func Group(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob", "cho")
	ann := b.OpenChat(t, base, u[0], Here, "")
	bob := b.OpenChat(t, base, u[1], There, "")
	cho := b.OpenChat(t, base, u[2], There, "")

	ann.Click("#new-group")
	ann.Type("#group-title", "On call")
	ann.Type("#group-members", u[1]+"\r")
	ann.Until("the group is open", `document.getElementById("title").textContent === "On call"`)
	ann.Send("welcome")
	ann.Tick("welcome", "delivered")
	bob.Open("On call")
	bob.Shows("welcome")
	ann.Tick("welcome", "read")

	ann.Click("#members")
	ann.Type("#members-uid", u[2]+"\r")
	ann.Until("there are three members", `document.querySelectorAll("#members-list li").length === 3`)
	cho.Open("On call")
	cho.Send("thanks")
	bob.Shows("welcome", "thanks")
	cho.Shows("thanks") // what was said before is not for a new member

	ann.Click(fmt.Sprintf(`#members-list [aria-label="Remove %s"]`, u[2]))
	ann.Until("there are two members", `document.querySelectorAll("#members-list li").length === 2`)
	cho.Until("it says so", `document.getElementById("text").disabled`)
	bob.Until("it tells of both", fmt.Sprintf(`[...document.querySelectorAll("#messages .line")].slice(-2).map((e) => e.textContent).join() === "%s added %s,%s removed %s"`, u[0], u[2], u[0], u[2]))
}

// GatewayKill kills the gateway that serves a user from the console, and heals it: the user reconnects and misses nothing.
func GatewayKill(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	bob := b.OpenChat(t, base, u[1], There, u[0])
	console := b.OpenConsole(t, base)
	ann.Send("one")
	bob.Shows("one")

	gateway := ann.Gateway()
	console.Gateway(gateway, "kill")
	t.Cleanup(func() { console.Restore() })
	console.Until(gateway+" is down", fmt.Sprintf(`document.querySelector('[data-gateway="%s"]').dataset.state === "down"`, gateway))
	bob.Send("two")
	ann.Moves(gateway)
	ann.Shows("one", "two")
	ann.Send("three")
	bob.Shows("one", "two", "three")
	ann.Tick("three", "read")

	console.Gateway(gateway, "restart")
	console.Until(gateway+" is up", fmt.Sprintf(`document.querySelector('[data-gateway="%s"]').dataset.state === "up"`, gateway))
}

// CutLink cuts a link both ways: both sides go on, and when it heals both show the same order, late messages marked.
func CutLink(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	bob := b.OpenChat(t, base, u[1], There, u[0])
	console := b.OpenConsole(t, base)
	ann.Send("before")
	bob.Shows("before")

	console.Isolate(There, true)
	t.Cleanup(func() { console.Restore() })
	ann.Send("a1")
	ann.Tick("a1", "accepted")
	bob.Send("b1")
	bob.Tick("b1", "accepted")
	ann.Send("a2")
	ann.Tick("a2", "accepted")
	console.Until("the lag shows", fmt.Sprintf(`!["0.0 s", ""].includes(document.querySelector('tr[data-link="%s/%s"] .lag span').textContent)`, Here, There))

	console.Isolate(There, false)
	want := []string{"before", "a1", "b1", "a2"}
	ann.Shows(want...)
	bob.Shows(want...)
	ann.Until("b1 is marked as late", message("b1")+`.dataset.late === "1"`)
	bob.Until("a1 is marked as late", message("a1")+`.dataset.late === "1"`)
	ann.Tick("a2", "read")
}

// RegionKill kills a region: its users move on, and it comes back with what happened meanwhile.
func RegionKill(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	bob := b.OpenChat(t, base, u[1], There, u[0])
	console := b.OpenConsole(t, base)
	ann.Send("one")
	bob.Shows("one")
	console.Region(Here, "kill")
	t.Cleanup(func() { console.Restore() })
	ann.Until("another region serves", fmt.Sprintf(
		`document.getElementById("status").dataset.phase === "online" && document.querySelector("#status .region").textContent !== %q`, Here))
	ann.Send("from elsewhere")
	bob.Shows("one", "from elsewhere")
	for _, seconds := range []int{1, 2, 3} {
		console.Until("the link to it falls behind, further and further", fmt.Sprintf(
			`parseFloat(document.querySelector('#links tr[data-link="%s/%s"] .lag').textContent) >= %d`, There, Here, seconds))
	}
	if over := Eval[int](console.Page, `(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector(".table-box"))`); over > 0 {
		t.Errorf("the table of links is %d px too wide: its orders are out of sight", over)
	}
	console.Region(Here, "restart")
	console.Until("it is up and nothing lags", fmt.Sprintf(
		`document.querySelector('.card[data-region="%s"] .badge').textContent === "up" && [...document.querySelectorAll("#links .badge")].every((e) => e.textContent === "open")`, Here))
	ann.Send("and back")
	bob.Shows("one", "from elsewhere", "and back")
}

// GlobalAck sends with a global ack, with a peer and without.
func GlobalAck(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	console := b.OpenConsole(t, base)
	ann.Click("#global")
	ann.Send("held")
	ann.Until("a peer holds it", message("held")+`.querySelector('[data-global="true"]')`)
	console.Isolate(Here, true)
	t.Cleanup(func() { console.Restore() })
	ann.Send("not held")
	ann.Until("it says: this region only", message("not held")+`.querySelector('[data-global="false"]')`)
	console.Isolate(Here, false)
}

// Trace follows a message from its details to its spans on the console page.
func Trace(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	bob := b.OpenChat(t, base, u[1], There, u[0])
	ann.Send("trace me")
	bob.Shows("trace me")
	ann.Click("#messages .meta")
	ann.Until("the details are open", `document.getElementById("details-dialog").open`)
	address := Eval[string](ann.Page, `document.getElementById("details-trace").href`)
	if !strings.Contains(address, "/console#trace=") {
		t.Fatalf("the details lead to %q", address)
	}
	c := b.Open(t, address)
	c.Until("spans of both regions are there", fmt.Sprintf(
		`document.querySelector('.span[data-name="submit"][data-region="%s"]') && document.querySelector('.span[data-name="deliver"][data-region="%s"]')`, Here, There))
	c.Until("they are on one axis, in order", fmt.Sprintf(
		`document.querySelector('.span[data-name="submit"]').getBoundingClientRect().left < document.querySelector('.span[data-name="deliver"][data-region="%s"]').getBoundingClientRect().left`, There))
	c.Click(".span")
	c.Until("its facts are shown", `document.querySelector(".span-facts")`)
}

// ConsoleByKeyboard cuts, delays and heals a link without a mouse.
func ConsoleByKeyboard(t *testing.T, b *Browser, base string) {
	c := b.OpenConsole(t, base)
	link := Here + "/" + There
	state := fmt.Sprintf(`document.querySelector('tr[data-link="%s"] .badge').textContent`, link)

	focused := fmt.Sprintf(`document.activeElement.closest("tr")?.dataset.link === %q && document.activeElement.dataset.order`, link)
	c.Front()
	c.Until("it has the foreground", "document.hasFocus()")
	c.TabTo("the link that skips to the links", `document.activeElement.className === "skip"`)
	c.Keys("\r")
	c.TabTo("the order of the link's row", focused+` === "cut"`)
	t.Cleanup(func() { c.Restore() })
	c.Keys("\r")
	c.Until("it is cut, and the same button heals it", state+` === "cut" && `+focused+` === "heal"`)
	c.Keys("\r")
	c.Until("it is healed", state+` === "open" && `+focused+` === "cut"`)
	if !Eval[bool](c.Page, focusShows) {
		t.Error("the focus on the button does not show any more")
	}

	c.Go(base + "/console")
	c.TabTo("the arrow of the map", fmt.Sprintf(`document.activeElement.dataset.link === %q`, link))
	c.Keys("\r") // it leads to its row's order
	c.Until("the row's order has the focus", focused+` === "cut"`)
	c.Keys("\r")
	c.Until("it is cut", state+` === "cut"`)
	c.Until("the map shows it", fmt.Sprintf(`document.querySelector('.edge[data-link="%s"]').dataset.state === "cut"`, link))
	c.Until("the health says so", `document.getElementById("health").textContent.includes("not open")`)
	c.Until("it is noted", fmt.Sprintf(`document.getElementById("events").textContent.includes("%s → %s cut")`, Here, There))
	c.Until("the focus has stayed", focused+` === "heal"`)
	c.Keys("\r")
	c.Until("it is healed", state+` === "open"`)

	delay := fmt.Sprintf(`tr[data-link="%s"] .delay input`, link)
	before := Eval[string](c.Page, fmt.Sprintf("document.querySelector(%q).value", delay))
	setDelay := func(ms string) {
		Eval[any](c.Page, fmt.Sprintf("document.querySelector(%q).select()", delay))
		c.Type(delay, ms+"\r")
	}
	setDelay("130")
	c.Until("the map shows the delay", fmt.Sprintf(`document.querySelector('.edge[data-link="%s"] .minor').textContent.includes("130") || document.querySelector('.edge[data-link="%s"]').getAttribute("aria-label").includes("130")`, link, link))
	setDelay(before)
}

// Themes changes the theme, and keeps it.
func Themes(t *testing.T, b *Browser, base string) {
	c := b.OpenConsole(t, base)
	color := `getComputedStyle(document.body).backgroundColor`
	before := Eval[string](c.Page, color)
	c.Click("#theme")
	after := Eval[string](c.Page, color)
	if before == after {
		t.Errorf("the background stays %s", before)
	}
	c.Go(base + "/")
	if kept := Eval[string](c.Page, color); kept != after {
		t.Errorf("the chat page has background %s, the console page %s", kept, after)
	}
	c.Click("#theme")
}

// Names checks what somebody who does not see the page depends on: every control has a name, every picture a text or
// none, ids are unique, and the focus shows.
func Names(t *testing.T, b *Browser, base string) {
	u := users("ann", "bob")
	ann := b.OpenChat(t, base, u[0], Here, u[1])
	ann.Send("hello")
	ann.Origin("hello", Here)
	console := b.OpenConsole(t, base)
	start := b.Open(t, base+"/")
	start.Until("it asks", `!document.getElementById("start").hidden`)
	const audit = `(() => {
		const wrong = [];
		const shown = (e) => e.checkVisibility();
		for (const e of document.querySelectorAll('button, a, input, textarea, [role="button"]')) {
			if (!shown(e)) continue;
			const name = e.getAttribute("aria-label") || e.textContent.trim() || [...(e.labels ?? [])].map((l) => l.textContent.trim()).join("");
			if (!name) wrong.push("no name: " + e.outerHTML.slice(0, 120));
		}
		for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) wrong.push("no alt: " + e.outerHTML);
		const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
		for (const id of ids) if (ids.filter((other) => other === id).length > 1) wrong.push("id twice: " + id);
		for (const e of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) wrong.push("no label: " + e.id);
		if (document.documentElement.lang !== "en" || !document.title) wrong.push("no language or title");
		if (document.documentElement.scrollWidth > innerWidth) wrong.push("it scrolls sideways: " + document.documentElement.scrollWidth);
		return wrong;
	})()`
	for name, p := range map[string]*Page{"chat": ann.Page, "console": console.Page, "start": start} {
		for _, wrong := range Eval[[]string](p, audit) {
			t.Errorf("%s: %s", name, wrong)
		}
		p.Front()
		p.Until("it has the foreground", "document.hasFocus()")
		Eval[any](p, `document.getElementById("theme").focus()`)
		p.Keys("\t")
		if at := Eval[string](p, "document.activeElement.id"); at == "theme" || at == "" && Eval[bool](p, "document.activeElement === document.body") {
			t.Errorf("%s: Tab leads from the theme to %q", name, at)
		}
		if !Eval[bool](p, focusShows) {
			t.Errorf("%s: the focus on %s does not show", name, Eval[string](p, "document.activeElement.outerHTML.slice(0, 80)"))
		}
	}
}
