package app

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// heldRoutes are the routes of ann, and a region that cannot be counted on.
type heldRoutes struct{}

func (heldRoutes) Routes(uid im.UID) (live []im.Route, unknown []im.Region) {
	if uid == "ann" {
		live = []im.Route{{
			UID: "ann", Device: "phone", Platform: "ios", Region: "us", Gateway: im.Gateway{ID: "gateway-1", Epoch: 7}, Conn: 3, Login: 9,
			Claimed: im.StampAt(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)), Offline: true,
		}}
	}
	return live, []im.Region{"ap"}
}

func (heldRoutes) Holds(uid im.UID) bool { return uid != "eve" }

func TestTellRoutes(t *testing.T) {
	server := httptest.NewServer(tellRoutes("eu", heldRoutes{}))
	defer server.Close()
	for uid, want := range map[string]UserRoutes{
		"ann": {Region: "eu", UID: "ann", Unknown: []im.Region{"ap"}, Held: true, Devices: []DeviceRoute{{
			Device: "phone", Platform: "ios", Region: "us", Gateway: "gateway-1", Epoch: 7, Conn: 3, Login: 9,
			Claimed: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Offline: true,
		}}},
		"bob": {Region: "eu", UID: "bob", Unknown: []im.Region{"ap"}, Held: true, Devices: []DeviceRoute{}},
		"eve": {Region: "eu", UID: "eve", Unknown: []im.Region{"ap"}, Devices: []DeviceRoute{}},
	} {
		resp, err := http.Get(server.URL + "?uid=" + uid)
		if err != nil {
			t.Fatal(err)
		}
		var got UserRoutes
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %+v, want %+v", uid, err, got, want)
		}
	}
	resp, err := http.Get(server.URL + "?uid=" + strings.Repeat("a", 1000))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a uid that is none: %s", resp.Status)
	}
}
