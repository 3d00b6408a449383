// Package browser drives the pages with a real Chromium. What it checks takes the pages' base URL as a parameter, so the
// same checks run over the fake regions of package fakedev and over `antipode dev`.
package browser

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// Wait is how long a page may take to show what is awaited. It bounds failures only: pages are polled every few
// milliseconds.
const Wait = 60 * time.Second

// Browser is one running Chromium.
type Browser struct {
	ctx context.Context
}

// Start starts a Chromium with a fresh profile that lives as long as the test. Where none is installed the test is
// skipped: .ci/run installs one, so there it is not. more are further options of the browser.
func Start(t testing.TB, more ...chromedp.ExecAllocatorOption) *Browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine (Debian's package is chromium): the pages are not tested")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // its own sandbox refuses to run as root; it only loads pages of this test
		chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1280, 900),
	)
	for _, name := range []string{
		"disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
		// Several pages take turns in the foreground; none may fall asleep.
		"disable-background-timer-throttling", "disable-backgrounding-occluded-windows", "disable-renderer-backgrounding",
	} {
		options = append(options, chromedp.Flag(name, true))
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), append(options, more...)...)
	t.Cleanup(stop)
	ctx, closed := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for the process to end, so that its folder can go
		closed()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return &Browser{ctx: ctx}
}

// Page is one tab. Its methods end the test when what they ask for does not come true in time.
type Page struct {
	t    testing.TB
	name string
	ctx  context.Context

	mu       sync.Mutex
	problems []string
}

// Open opens an address in a new tab. At the end of the test, errors that the page wrote to its console and exceptions
// that it did not catch fail it.
func (b *Browser) Open(t testing.TB, url string) *Page {
	t.Helper()
	ctx, closed := chromedp.NewContext(b.ctx, chromedp.WithNewWindow(true))
	p := &Page{t: t, name: url, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	messages := chromedp.Console(ctx)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for m, err := range messages {
			if err != nil {
				return
			}
			p.heard(m)
		}
	}()
	t.Cleanup(func() {
		closed()
		<-listening
		for _, problem := range p.problems {
			t.Errorf("%s: %s", p.name, problem)
		}
	})
	p.Go(url)
	return p
}

// heard keeps what should not happen. A gateway or a region that a test kills makes the browser write a network error of
// its own, which the page cannot prevent.
func (p *Page) heard(m chromedp.ConsoleMessage) {
	text := m.String()
	if !m.IsException() && (string(m.Type) != "error" || m.Source == "network" || strings.Contains(text, "WebSocket connection to") || strings.Contains(text, "net::ERR")) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = append(p.problems, fmt.Sprintf("%s (%s:%d)", text, m.URL, m.Line+1))
}

// Go loads an address in the tab.
func (p *Page) Go(url string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Wait)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		p.t.Fatalf("load %s: %v", url, err)
	}
}

// Front brings the tab to the foreground.
func (p *Page) Front() {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, page.BringToFront, cdp.Empty{}); err != nil {
		p.t.Fatalf("%s: bring to front: %v", p.name, err)
	}
}

// Eval runs a script and returns its value; a promise is awaited.
func Eval[T any](p *Page, script string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Wait)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise, chromedp.EvalAsValue))
	if err != nil {
		p.t.Fatalf("%s: %s: %v", p.name, script, err)
	}
	return v
}

// Until waits until a script's value is true, asking again and again.
func (p *Page) Until(what, script string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Wait)
	defer cancel()
	expression := "(() => { try { return !!(" + script + "); } catch { return false; } })()"
	for {
		v, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		if err == nil && v {
			return
		}
		if ctx.Err() != nil {
			p.t.Fatalf("%s: waited in vain until %s\n%s", p.name, what, p.text())
		}
		if err != nil {
			p.t.Fatalf("%s: until %s: %v", p.name, what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(15 * time.Millisecond):
		}
	}
}

// text is what the page shows, for failures.
func (p *Page) text() string {
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		return err.Error()
	}
	return v
}

// Click clicks the first element of a selector once it is there.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.Until(selector+" can be clicked", fmt.Sprintf("document.querySelector(%q) && !document.querySelector(%q).disabled", selector, selector))
	Eval[any](p, fmt.Sprintf("document.querySelector(%q).click()", selector))
}

// Type puts the focus on an element and types a text into it; a final "\r" presses Enter.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	Eval[any](p, fmt.Sprintf("document.querySelector(%q).focus()", selector))
	text, enter := strings.CutSuffix(text, "\r")
	if _, err := chromedp.Call(p.ctx, input.InsertText, input.InsertTextParams{Text: text}); err != nil {
		p.t.Fatalf("%s: type %q: %v", p.name, text, err)
	}
	if enter {
		p.Keys("\r")
	}
}

// Keys types with the keyboard, wherever the focus is.
func (p *Page) Keys(keys string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Wait)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.KeyEvent(keys)); err != nil {
		p.t.Fatalf("%s: type %q: %v", p.name, keys, err)
	}
}

// TabTo presses Tab until a script is true of the page, as somebody does who has no mouse; wherever the focus rests on its way, it
// must show.
func (p *Page) TabTo(what, script string) {
	p.t.Helper()
	var way []string
	for range 60 {
		p.Keys("\t")
		if !Eval[bool](p, focusShows) {
			p.t.Fatalf("%s: the focus on %s does not show", p.name, Eval[string](p, "document.activeElement.outerHTML.slice(0, 80)"))
		}
		if Eval[bool](p, "!!("+script+")") {
			return
		}
		way = append(way, Eval[string](p, `document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent.trim()`))
	}
	p.t.Fatalf("%s: Tab does not lead to %s but to %q", p.name, what, way)
}

// focusShows is whether what has the focus shows it; the arrows of the map show it on their label.
const focusShows = `(() => {
	const style = getComputedStyle(document.activeElement.querySelector(".label rect, circle.ring") ?? document.activeElement);
	return document.activeElement !== document.body && (style.outlineStyle !== "none" || style.strokeWidth === "2.5px" || style.strokeWidth === "2px" && style.stroke !== "none");
})()`

// Shot returns a picture of the tab, PNG.
func (p *Page) Shot() []byte {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Wait)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatalf("%s: screenshot: %v", p.name, err)
	}
	return png
}
