package timeline

import (
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// membership makes a record that adds or removes cat.
func membership(o im.Origin, seq, stamp uint64, id int, add bool) *wire.Record {
	m := &wire.Member{Add: []string{"cat"}}
	if !add {
		m = &wire.Member{Remove: []string{"cat"}}
	}
	return &wire.Record{
		Kind: "member", Version: 1, Sender: "ann", ClientId: number(id).String(), Stamp: stamp, Origin: string(o), Seq: seq,
		Content: &wire.RecordMember{Member: m},
	}
}

func TestMembership(t *testing.T) {
	add := func(o im.Origin, seq, stamp uint64) *wire.Record {
		return membership(o, seq, stamp, int(stamp), true)
	}
	remove := func(o im.Origin, seq, stamp uint64) *wire.Record {
		return membership(o, seq, stamp, int(stamp), false)
	}
	for _, tc := range []struct {
		name    string
		records []*wire.Record // one page each, all but the last one say nothing
		added   bool
		earlier int
	}{
		{"the first", []*wire.Record{add("eu", 1, 10)}, true, 0},
		{"again, later", []*wire.Record{add("eu", 1, 10), remove("eu", 2, 20), add("us", 1, 30)}, true, 0},
		{"before the one that was known", []*wire.Record{add("eu", 1, 10), remove("eu", 2, 20), add("us", 1, 40), add("ap", 1, 30)}, true, 1},
		{"the same place twice", []*wire.Record{add("us", 1, 40), add("us", 1, 40)}, false, 0},
		{"inside a stretch", []*wire.Record{add("eu", 1, 10), remove("eu", 3, 50), add("us", 1, 60), add("ap", 1, 30)}, true, 0},
		{"before a removal that was heard", []*wire.Record{remove("eu", 3, 50), add("us", 1, 60), add("ap", 1, 30)}, true, 1},
		{"past a removal, with no later addition", []*wire.Record{add("eu", 1, 10), remove("eu", 3, 50), add("ap", 1, 60)}, true, 0},
		{"a removal", []*wire.Record{add("us", 1, 40), remove("ap", 1, 30)}, false, 0},
		{"an addition that a repeat undid", []*wire.Record{remove("eu", 1, 10), add("eu", 2, 40), membership("us", 1, 20, 40, true)}, true, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m Membership
			for i, r := range tc.records {
				added, earlier := m.Hear("cat", r)
				if i < len(tc.records)-1 {
					if len(earlier) > 0 {
						t.Fatalf("record %d: earlier %v", i, earlier)
					}
					continue
				}
				if added != tc.added || len(earlier) != tc.earlier {
					t.Errorf("added %v, earlier %v", added, earlier)
				}
			}
		})
	}
	// What comes in one page is new together, in whatever order.
	var m Membership
	if _, earlier := m.Hear("cat", add("us", 1, 40), add("ap", 1, 30)); len(earlier) > 0 {
		t.Errorf("a page: %v", earlier)
	}
	// Others are nobody's business, and a creator is a member.
	if added, _ := m.Hear("dan", add("eu", 1, 10)); added {
		t.Error("dan was added")
	}
	create := &wire.Record{Kind: "create", Version: 1, Sender: "dan", ClientId: number(1).String(), Stamp: 1, Origin: "eu", Seq: 1, Content: &wire.RecordCreate{Create: &wire.Create{}}}
	if added, _ := new(Membership).Hear("dan", create); !added {
		t.Error("the creator is no member")
	}
}
