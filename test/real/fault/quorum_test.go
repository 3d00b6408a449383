//go:build real && linux

package fault

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/cluster"
)

// A region of three brokers, of which two must have a record, and two PostgreSQL servers; beside it one whose only broker
// has copies of the first one's logs, and fills copies there. Each broker of three leads some of the partitions, logs and
// copies, so whichever dies takes leaders of both with it.
func TestLoseBrokersOfThree(t *testing.T) {
	c := shared.of(t, "quorum", func() cluster.File {
		file := shared.twoRegions()
		file.Regions[0].Brokers, file.Postgres.Servers = 3, 2
		file.Services = cluster.Services{IPConf: 1, Gateway: 1, Router: 1, IMServer: 1, Replicator: 1}
		return file
	}, nil)
	t.Run("kill", func(t *testing.T) {
		f := beginIn(t, c, "kill -9 of a broker of three")
		f.breaks(f.Kill, "eu/kafka-2")
		f.flows(f.broke, 60*time.Second, nil, nil) // without it, both ways over the links
		f.heals(f.starts("eu/kafka-2"))
		f.ends()
	})
	t.Run("pause", func(t *testing.T) {
		f := beginIn(t, c, "pause of a broker of three")
		f.breaks(f.Pause, "eu/kafka-3")
		f.flows(f.broke, 60*time.Second, nil, nil)
		f.heals(f.resumes("eu/kafka-3"))
		f.ends()
	})
	t.Run("postgres", func(t *testing.T) {
		f := beginIn(t, c, "kill -9 of a PostgreSQL server of two")
		f.breaks(f.Kill, "eu/postgres-2")
		f.lasts(2 * time.Second)
		f.accepts(time.Now(), 20*time.Second)
		f.heals(f.starts("eu/postgres-2"))
		f.ends()
	})
}
