package app

import "testing"

// TestPortsDoNotMeet checks that no two parts of dev get one port.
func TestPortsDoNotMeet(t *testing.T) {
	p, err := parseListen("127.0.0.1:7400")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{p.at(0): "pages", p.at(portPostgres): "postgres"}
	take := func(addr, what string) {
		if other := seen[addr]; other != "" {
			t.Errorf("%s and %s both listen on %s", what, other, addr)
		}
		seen[addr] = what
	}
	if portEnd > perRegion {
		t.Errorf("a region needs %d ports, more than the %d it has", portEnd, perRegion)
	}
	for region := range maxRegions {
		for n := range portEnd {
			take(p.region(region, n), "a part of a region")
		}
		for to := range maxRegions {
			take(p.link(region, to), "a link")
		}
	}
	for _, bad := range []string{"7400", "127.0.0.1:x", "127.0.0.1:65500", "127.0.0.1:-1"} {
		if _, err := parseListen(bad); err == nil {
			t.Errorf("--listen %s was taken", bad)
		}
	}
}

func TestParseRegions(t *testing.T) {
	for _, bad := range [][]string{nil, {"EU"}, {"eu", "eu"}, {"a", "b", "c", "d", "e", "f", "g", "h", "i"}} {
		if _, err := parseRegions(bad); err == nil {
			t.Errorf("--regions %v was taken", bad)
		}
	}
	if r, err := parseRegions([]string{"eu", "us-2"}); err != nil || len(r) != 2 {
		t.Errorf("got %v, %v", r, err)
	}
}
