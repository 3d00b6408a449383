package kafka_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/antipode-im/antipode/internal/kafka"
)

// Brokers before 2.7 do not tell readers of logs that lost what was read: a start refuses them, at once, and says which
// will do.
func TestOldBrokersAreRefused(t *testing.T) {
	for version, max := range map[string]*kversion.Versions{"2.6": kversion.V2_6_0(), "2.7": kversion.V2_7_0()} {
		t.Run(version, func(t *testing.T) {
			fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(max))
			if err != nil {
				t.Fatal(err)
			}
			defer fake.Close()
			began := time.Now()
			c, err := kafka.Open(t.Context(), kafka.Config{Brokers: fake.ListenAddrs(), Embedded: true}, kafka.Deps{})
			if version == "2.7" {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return
			}
			if err == nil {
				c.Close()
				t.Fatal("it is taken")
			}
			problem, remedy, lasting := kafka.Explain(err)
			if said := problem + ": " + remedy; !lasting || !strings.Contains(said, "2.7") {
				t.Errorf("after %v it says %q, and that waiting may help: %v (%v)", time.Since(began), said, !lasting, err)
			}
		})
	}
}
