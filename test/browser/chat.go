package browser

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// Chat is the chat page of one user.
type Chat struct {
	*Page
	UID string
}

// OpenChat opens the chat page of a user in a region, in a conversation with somebody if to is set, and waits until it is
// connected there.
func (b *Browser) OpenChat(t testing.TB, base, uid, region, to string) *Chat {
	t.Helper()
	query := url.Values{"as": {uid}, "region": {region}}
	if to != "" {
		query.Set("to", to)
	}
	c := &Chat{b.Open(t, base+"/?"+query.Encode()), uid}
	c.Online(region)
	return c
}

// Online waits until the page is connected in a region.
func (c *Chat) Online(region string) {
	c.t.Helper()
	c.Until("it is connected in "+region, fmt.Sprintf(
		`document.getElementById("status").dataset.phase === "online" && document.querySelector("#status .region").textContent === %q`, region))
}

// By waits until the page is connected in a region, and by what.
func (c *Chat) By(region, carrier string) {
	c.t.Helper()
	c.Online(region)
	c.Until("it is connected by "+carrier, fmt.Sprintf(`(document.querySelector("#status .words").textContent.match(/ by (.+)$/)?.[1] ?? "WebSocket") === %q`, carrier))
}

// gatewayScript is the gateway that serves the page, region/id, or "" while none does.
const gatewayScript = `(document.getElementById("status").dataset.phase === "online" ? document.querySelector("#status .region").textContent + "/" + document.querySelector("#status .words").textContent.match(/Connected to (\S+)/)[1] : "")`

// Gateway is the gateway that serves the page, region/id, as it says.
func (c *Chat) Gateway() string {
	c.t.Helper()
	return Eval[string](c.Page, gatewayScript)
}

// Moves waits until a gateway other than this one serves the page.
func (c *Chat) Moves(from string) {
	c.t.Helper()
	c.Until("a gateway other than "+from+" serves", fmt.Sprintf("%[1]s && %[1]s !== %[2]q", gatewayScript, from))
}

// Send writes a message and presses Enter.
func (c *Chat) Send(text string) {
	c.t.Helper()
	c.Type("#text", text+"\r")
}

// Texts are the texts of the messages on display, in order.
func (c *Chat) Texts() []string {
	c.t.Helper()
	return Eval[[]string](c.Page, `[...document.querySelectorAll("#messages .text")].map((e) => e.textContent)`)
}

// Shows waits until the messages on display are exactly these.
func (c *Chat) Shows(texts ...string) {
	c.t.Helper()
	c.Until(fmt.Sprintf("it shows %q", texts), fmt.Sprintf(
		`[...document.querySelectorAll("#messages .text")].map((e) => e.textContent).join("\n") === %q`, strings.Join(texts, "\n")))
}

// message is a script for the element of a message, by its text.
func message(text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages .message")].find((e) => e.querySelector(".text").textContent === %q)`, text)
}

// Typing writes without sending, and goes on pressing keys until stop.
func (c *Chat) Typing(text string) (stop func()) {
	c.t.Helper()
	c.Type("#text", text)
	Eval[any](c.Page, `window.keys = setInterval(() => document.getElementById("text").dispatchEvent(new Event("input")), 200)`)
	return func() {
		c.t.Helper()
		Eval[any](c.Page, `clearInterval(window.keys)`)
	}
}

// Subtitle waits until the line below the title is this.
func (c *Chat) Subtitle(text string) {
	c.t.Helper()
	c.Until(fmt.Sprintf("below the title is %q", text), fmt.Sprintf(`document.getElementById("subtitle").textContent === %q`, text))
}

// Tick waits until an own message has a tick: sending, accepted, delivered, read or failed.
func (c *Chat) Tick(text, tick string) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%q is %s", text, tick), fmt.Sprintf(`%s.querySelector(".tick").dataset.tick === %q`, message(text), tick))
}

// Origin waits until a message names the region that accepted it.
func (c *Chat) Origin(text, region string) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%q comes from %s", text, region), fmt.Sprintf(`%s.querySelector(".region").textContent === %q`, message(text), region))
}

// Unread waits until the list shows a number of unread messages for a conversation by its title; 0 is none.
func (c *Chat) Unread(title string, count int) {
	c.t.Helper()
	row := fmt.Sprintf(`[...document.querySelectorAll("#list button")].find((e) => e.querySelector(".name").textContent === %q)`, title)
	want := row + `.querySelector(".unread") === null`
	if count > 0 {
		want = fmt.Sprintf(`parseInt(%s.querySelector(".unread").textContent) === %d`, row, count)
	}
	c.Until(fmt.Sprintf("%s has %d unread", title, count), want)
}

// Open opens a conversation of the list by its title.
func (c *Chat) Open(title string) {
	c.t.Helper()
	row := fmt.Sprintf(`[...document.querySelectorAll("#list button")].find((e) => e.querySelector(".name").textContent === %q)`, title)
	c.Until(title+" is listed", row)
	Eval[any](c.Page, row+".click()")
	c.Until(title+" is open", fmt.Sprintf(`document.getElementById("title").textContent === %q`, title))
}
