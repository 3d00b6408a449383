package browser

import (
	"fmt"
	"testing"
)

// Console is the console page.
type Console struct{ *Page }

// OpenConsole opens the console page and waits for its first state.
func (b *Browser) OpenConsole(t testing.TB, base string) *Console {
	t.Helper()
	c := &Console{b.Open(t, base+"/console")}
	c.Until("the state is shown", `document.querySelectorAll(".card").length > 1 && document.querySelectorAll("#links tbody tr").length > 1`)
	return c
}

// Gateway presses the button of a gateway, region/id: kill or restart.
func (c *Console) Gateway(id, order string) {
	c.t.Helper()
	c.Click(fmt.Sprintf(`[data-gateway="%s"] button[data-order="%s"]`, id, order))
}

// Region presses a region's button: kill or restart.
func (c *Console) Region(name, order string) {
	c.t.Helper()
	c.Click(fmt.Sprintf(`.card[data-region="%s"] .orders button[data-order="%s"]`, name, order))
}

// Isolate cuts or heals all links of a region and waits until that shows.
func (c *Console) Isolate(name string, cut bool) {
	c.t.Helper()
	words, state := "Cut all its links", "cut"
	if !cut {
		words, state = "Heal all its links", "open"
	}
	button := fmt.Sprintf(`.card[data-region="%s"] header button`, name)
	c.Until(words+" is offered", fmt.Sprintf(`document.querySelector('%s').textContent === %q`, button, words))
	c.Click(button)
	c.Until("all links of "+name+" are "+state, fmt.Sprintf(
		`[...document.querySelectorAll("#links tbody tr")].filter((e) => e.dataset.link.split("/").includes(%q)).every((e) => e.querySelector(".badge").textContent === %q)`, name, state))
}

// Restore heals and restarts everything, whatever a scenario that failed half-way left behind.
func (c *Console) Restore() {
	c.t.Helper()
	Eval[any](c.Page, `(async () => {
		const order = (path) => fetch(path, { method: "POST", headers: { "X-Antipode-Console": "1" } });
		const state = await (await fetch("/dev/state.json")).json();
		for (const link of state.links) if (link.state === "cut") await order("/dev/links/" + link.from + "/" + link.to + "/heal");
		for (const region of state.regions) if (region.state === "down") await order("/dev/regions/" + region.name + "/restart");
		for (const gateway of state.gateways) {
			if (gateway.state === "down") await order("/dev/gateways/" + gateway.region + "/" + gateway.id + "/restart");
		}
	})()`)
	c.Until("everything is up", `document.getElementById("health").textContent === "All well"`)
}
