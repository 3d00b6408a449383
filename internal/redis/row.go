package redis

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/antipode-im/antipode/im"
)

// A row's text: numbers as 16 hexadecimal digits, so that scripts compare them as text, then the two names.
//
//	login(16) offset(16) claimed(16) conn(16) epoch(16) offline(1) length of platform(4) platform gateway
const rowHead = 5*16 + 1 + 4

func encodeRow(r *im.Route) string {
	offline := 0
	if r.Offline {
		offline = 1
	}
	return fmt.Sprintf("%016x%016x%016x%016x%016x%d%04x%s%s",
		r.Login, uint64(r.Offset), uint64(r.Claimed), r.Conn, r.Gateway.Epoch, offline,
		len(r.Platform), r.Platform, r.Gateway.ID)
}

func decodeRow(uid im.UID, field, row string) (im.Route, error) {
	bad := func(why string) (im.Route, error) {
		return im.Route{}, fmt.Errorf("redis: route of %s, field %q: %s", uid, field, why)
	}
	name, device, ok := strings.Cut(field, " ")
	if !ok {
		return bad("want origin and device")
	}
	origin, err := im.ParseOrigin(name)
	if err != nil {
		return bad(err.Error())
	}
	if len(row) < rowHead {
		return bad("too short")
	}
	var n [5]uint64
	for i := range n {
		if n[i], err = strconv.ParseUint(row[16*i:16*i+16], 16, 64); err != nil {
			return bad(err.Error())
		}
	}
	size, err := strconv.ParseUint(row[rowHead-4:rowHead], 16, 16)
	if err != nil || rowHead+int(size) > len(row) {
		return bad("the platform's length is wrong")
	}
	return im.Route{
		UID: uid, Device: im.DeviceID(device), Platform: im.Platform(row[rowHead : rowHead+size]),
		Region: origin.Region(), Gateway: im.Gateway{ID: row[rowHead+size:], Epoch: n[4]},
		Login: n[0], Offset: int64(n[1]), Claimed: im.Stamp(n[2]), Conn: n[3], Offline: row[80] == '1',
	}, nil
}

// encodePosition is the text of a position: "next local generation floor", decimal.
func encodePosition(p im.RoutePosition) string {
	return fmt.Sprintf("%d %d %d %d", p.Next, p.Local, p.Generation, p.Floor)
}

func decodePosition(s string) (im.RoutePosition, error) {
	var p im.RoutePosition
	if _, err := fmt.Sscanf(s, "%d %d %d %d", &p.Next, &p.Local, &p.Generation, &p.Floor); err != nil {
		return p, fmt.Errorf("redis: position %q: %w", s, err)
	}
	return p, nil
}
