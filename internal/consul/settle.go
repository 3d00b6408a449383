package consul

import (
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
)

// settle decides what a watch tells of an answer. Until settled, which is a time to live and a little after the last
// trouble, those that were known and are missing now stay: a restarted or resumed agent names its instances only as each
// of them renews, and without this every partition and every gateway would move twice. again is when to look again if
// anything was kept, else 0.
func settle(known, answer []im.Instance, now, settled time.Time) (list []im.Instance, again time.Duration) {
	if !now.Before(settled) {
		return answer, 0
	}
	list = slices.Clone(answer)
	for _, k := range known {
		if !slices.ContainsFunc(answer, func(i im.Instance) bool { return compare(i, k) == 0 }) {
			list = append(list, k)
		}
	}
	if len(list) == len(answer) {
		return answer, 0
	}
	slices.SortFunc(list, compare)
	return list, settled.Sub(now)
}
