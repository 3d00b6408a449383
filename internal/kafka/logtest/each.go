package logtest

import (
	"bytes"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

func readEach(t *testing.T, f *fixture) {
	c := f.open(t, func(cfg *kafka.Config) { cfg.FetchBytes = 100_000 })
	ps := f.topic(t, c, 16)
	empty, large, past := ps[0], ps[1], ps[2]
	must(c.Append(t.Context(), large, []im.Entry{{Value: make([]byte, 200_000)}}))(t)
	must(c.Append(t.Context(), past, text("a")))(t)
	missing := im.Partition{Topic: "t-missing"}
	from := map[im.Partition]int64{empty: 0, large: 0, past: 2, missing: 0}
	for _, p := range ps[3:] { // more of them than one answer holds
		for i := range 4 {
			must(c.Append(t.Context(), p, []im.Entry{{Value: bytes.Repeat([]byte{byte(i)}, 10_000)}}))(t)
		}
		from[p] = 1
	}
	got := c.ReadEach(t.Context(), from, 25_000)
	for _, p := range ps[3:] {
		if n := len(got[p]); n < 1 || n > 3 || got[p][0].Offset != 1 || got[p][0].Value[0] != 1 || got[p][0].Partition != p {
			t.Errorf("%v: read %d entries of 10,000 bytes from 1 within 25,000 bytes", p, n)
		}
	}
	if entries, named := got[empty]; !named || len(entries) != 0 {
		t.Errorf("of a partition that has nothing: %d entries, named %t", len(entries), named)
	}
	for _, p := range []im.Partition{past, missing} {
		if _, named := got[p]; named {
			t.Errorf("%v is named, of which nothing can be read from there", p)
		}
	}
	if entries, named := got[large]; named && len(entries) != 1 { // what stands first in an answer comes whole
		t.Errorf("of a batch that is larger: %d entries", len(entries))
	}
}
