package im

import "cmp"

// DeviceID names an installation of the client; Platform is its class.
type (
	DeviceID string
	Platform string // ios, android, web, desktop
)

// Gateway names one life of a gateway: its id and the epoch it took at boot. A route of another epoch is dead (I10).
type Gateway struct {
	ID    string
	Epoch uint64
}

// Route says where a device is connected: (uid, device, region) → (gateway, epoch, conn, login).
type Route struct {
	UID      UID
	Device   DeviceID
	Platform Platform
	Region   Region
	Gateway  Gateway
	Conn     uint64 // numbers a gateway's conns within its epoch
	Login    uint64 // the device's login number: grows at every socket, stored by the client before it is sent
	Offset   int64  // origin offset of the claim in route.<region>: the last tie-break
	Claimed  Stamp  // when; live routes claim anew every hour and one older than 2 h is dead
	Offline  bool   // a session without a socket, in its resume window: never "delivered"
}

// Compare orders routes of one (uid, device): the greater is the one that a lookup takes. The higher login number wins;
// ties go by region name, then log offset.
func (r Route) Compare(s Route) int {
	return cmp.Or(cmp.Compare(r.Login, s.Login), cmp.Compare(r.Region, s.Region), cmp.Compare(r.Offset, s.Offset))
}
