package im_test

import (
	"testing"

	"github.com/antipode-im/antipode/im"
)

func TestMember(t *testing.T) {
	good := im.Member{Region: "eu", Origins: []im.Origin{"eu", "eu.2"}, Replicator: "10.0.0.1:7401", Stamp: 3}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []im.Member{
		{},
		{Region: "eu", Replicator: "a:1"},
		{Region: "eu", Origins: []im.Origin{"us"}, Replicator: "a:1"},
		{Region: "eu", Origins: []im.Origin{"eu.2", "eu"}, Replicator: "a:1"},
		{Region: "eu", Origins: []im.Origin{"eu", "eu"}, Replicator: "a:1"},
		{Region: "eu", Origins: []im.Origin{"eu"}},
		{Region: "eu", Origins: []im.Origin{"eu"}, Replicator: "a:1", Via: map[im.Region]string{"us": ""}},
		{Region: "eu", Origins: []im.Origin{"eu"}, Replicator: "a:1", Via: map[im.Region]string{"Us": "b:1"}},
		{Region: "eu", Origins: []im.Origin{"eu"}, Replicator: "a:1", Via: map[im.Region]string{"eu": "b:1"}},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	older := good
	older.Stamp, older.Replicator = 2, "z:1"
	if good.Compare(older) <= 0 || older.Compare(good) >= 0 || good.Equal(older) || !good.Equal(good) {
		t.Error("the highest stamp does not win")
	}
	more := good
	more.Origins = append([]im.Origin{"eu"}, "eu.2", "eu.3")
	if more.Compare(good) <= 0 {
		t.Error("a tie does not go to more origins")
	}
	other := good
	other.Via = map[im.Region]string{"us": "b:1", "ap": "c:1"}
	if err := other.Check(); err != nil {
		t.Error(err)
	}
	if other.Equal(good) || other.Compare(good) != -good.Compare(other) {
		t.Error("another way is no difference")
	}
	if from, of := other.From("us"), other.From("sa"); from != "b:1" || of != good.Replicator {
		t.Errorf("us reaches it at %s, sa at %s", from, of)
	}
}
