package kafka_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/internal/embedded"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/kafka/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is the embedded broker.
type fake struct {
	cfg  embedded.KafkaConfig
	kafk *embedded.Kafka
}

func startFake(t testing.TB) *fake {
	f := &fake{cfg: embedded.KafkaConfig{Addr: "127.0.0.1:0", Dir: t.TempDir() + "/kafka"}}
	f.Start(t)
	f.cfg.Addr = f.kafk.Addr()
	t.Cleanup(func() { f.kafk.Close() })
	return f
}

func (f *fake) Config() kafka.Config {
	return kafka.Config{Brokers: []string{f.cfg.Addr}, Embedded: true}
}

func (f *fake) Replication() (int, int) { return 1, 1 }

func (f *fake) Kill(t testing.TB) {
	if err := f.kafk.Kill(); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) Start(t testing.TB) {
	k, err := embedded.StartKafka(t.Context(), f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.kafk = k
}

func TestEmbedded(t *testing.T) {
	logtest.Suite(t, startFake(t))
}
