package wire_test

import (
	"testing"

	"github.com/antipode-im/antipode/wire"
)

func TestCommonVersion(t *testing.T) {
	for name, c := range map[string]struct {
		a, b wire.Versions
		want uint32 // 0: none
	}{
		"the same":               {wire.Versions{2, 2}, wire.Versions{2, 2}, 2},
		"one is newer":           {wire.Versions{2, 2}, wire.Versions{2, 4}, 2},
		"they overlap":           {wire.Versions{1, 3}, wire.Versions{2, 4}, 3},
		"the newer forgot ours":  {wire.Versions{1, 2}, wire.Versions{3, 4}, 0},
		"a range within a range": {wire.Versions{1, 9}, wire.Versions{4, 5}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			for _, pair := range [][2]wire.Versions{{c.a, c.b}, {c.b, c.a}} {
				got, ok := pair[0].Common(pair[1])
				if ok != (c.want != 0) || ok && got != c.want {
					t.Errorf("%v and %v: %d, %v; want %d", pair[0], pair[1], got, ok, c.want)
				}
			}
		})
	}
}

func TestVersionsText(t *testing.T) {
	for _, v := range []wire.Versions{{1, 1}, {2, 4}} {
		if got, err := wire.ParseVersions(v.Text()); err != nil || got != v {
			t.Errorf("%v: %v, %v", v, got, err)
		}
	}
	for _, bad := range []string{"", "2", "-", "0-1", "3-2", "a-b", "1-99999999999"} {
		if v, err := wire.ParseVersions(bad); err == nil {
			t.Errorf("%q: read as %v", bad, v)
		}
	}
	if a, b := (wire.Versions{2, 2}).String(), (wire.Versions{2, 4}).String(); a != "2" || b != "2 to 4" {
		t.Errorf("%q, %q", a, b)
	}
}

// A build that names one version speaks that one.
func TestAskedVersions(t *testing.T) {
	if v := wire.AskedVersions(&wire.LinkOpen{Version: 2}); v != (wire.Versions{2, 2}) {
		t.Error(v)
	}
	if v := wire.AskedVersions(&wire.LinkOpen{Version: 2, Newest: 4}); v != (wire.Versions{2, 4}) {
		t.Error(v)
	}
}
