package app

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// RoutesPath is where a router's admin server tells where a user is connected.
const RoutesPath = "/router/routes"

// UserRoutes is what it tells there.
type UserRoutes struct {
	Region  im.Region     `json:"region"` // the router's
	UID     im.UID        `json:"uid"`
	Devices []DeviceRoute `json:"devices"`
	Unknown []im.Region   `json:"unknown"` // regions whose routes cannot be counted on now: the user may be connected there
	Held    bool          `json:"held"`    // a route of the user is held, whether it counts or not
}

// DeviceRoute is the route that counts of one device.
type DeviceRoute struct {
	Device   im.DeviceID `json:"device"`
	Platform im.Platform `json:"platform"`
	Region   im.Region   `json:"region"`
	Gateway  string      `json:"gateway"`
	Epoch    uint64      `json:"epoch"`
	Conn     uint64      `json:"conn"`
	Login    uint64      `json:"login"`
	Claimed  time.Time   `json:"claimed"` // again every hour
	Offline  bool        `json:"offline"` // a session without a socket, in its resume window
}

// routesOfUser are a router's routes.
type routesOfUser interface {
	Routes(uid im.UID) (live []im.Route, unknown []im.Region)
	Holds(uid im.UID) bool
}

// tellRoutes answers with the routes of the user that is asked for.
func tellRoutes(region im.Region, r routesOfUser) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		uid, err := im.ParseUID(q.URL.Query().Get("uid"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_ = out.Encode(&wire.Error{Code: string(im.CodeBadRequest), Detail: "uid: " + err.Error()}) // who asked is gone, if it fails
			return
		}
		live, unknown := r.Routes(uid)
		answer := UserRoutes{Region: region, UID: uid, Devices: []DeviceRoute{}, Unknown: append([]im.Region{}, unknown...), Held: r.Holds(uid)}
		for _, l := range live {
			answer.Devices = append(answer.Devices, DeviceRoute{
				Device: l.Device, Platform: l.Platform, Region: l.Region, Gateway: l.Gateway.ID, Epoch: l.Gateway.Epoch,
				Conn: l.Conn, Login: l.Login, Claimed: l.Claimed.Time().UTC(), Offline: l.Offline,
			})
		}
		_ = out.Encode(answer)
	})
}
