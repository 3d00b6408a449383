//go:build real

package contract_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/kafka/logtest"
	"github.com/antipode-im/antipode/internal/testenv"
)

// oneBroker is the shared broker, which a test may kill.
type oneBroker struct{ *testenv.Member }

// Config says how to reach it.
func (oneBroker) Config() kafka.Config { return kafka.Config{Brokers: []string{servers.kafka.Addr()}} }

// Replication is what one broker can do.
func (oneBroker) Replication() (replication, minISR int) { return 1, 1 }

// Kill ends it suddenly.
func (b oneBroker) Kill(t testing.TB) {
	t.Helper()
	if err := b.Member.Kill(); err != nil {
		t.Fatal(err)
	}
}

// Start starts it again.
func (b oneBroker) Start(t testing.TB) {
	t.Helper()
	if err := b.Member.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The log's contract holds on Apache Kafka.
func TestKafka(t *testing.T) { logtest.Suite(t, oneBroker{servers.members[servers.kafka]}) }

// openKafka opens a cluster that is closed with the test.
func openKafka(t testing.TB, cfg kafka.Config) *kafka.Cluster {
	t.Helper()
	c, err := kafka.Open(t.Context(), cfg, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// kafkaTopic makes a topic of the test's own and returns its partitions.
func kafkaTopic(t testing.TB, c *kafka.Cluster, partitions, replication, minISR int) []im.Partition {
	t.Helper()
	spec := kafka.TopicSpec{Name: unique(), Partitions: partitions, Replication: replication, MinISR: minISR, Retention: 72 * time.Hour}
	if err := c.CreateTopics(t.Context(), []kafka.TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
	ps := make([]im.Partition, partitions)
	for n := range ps {
		ps[n] = im.Partition{Topic: spec.Name, Number: n}
	}
	return ps
}

// A broker that hangs holds nobody longer than they said they would wait.
func TestKafkaHangs(t *testing.T) {
	broker := servers.members[servers.kafka]
	cfg := kafka.Config{Brokers: []string{servers.kafka.Addr()}, RequestTimeout: 2 * time.Second}
	c := openKafka(t, cfg)
	ps := kafkaTopic(t, c, 2, 1, 1)
	r := c.NewReader(map[im.Partition]int64{ps[0]: 0, ps[1]: 0})
	if _, err := c.Append(t.Context(), ps[0], []im.Entry{{Value: []byte("before")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := broker.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Resume(); err != nil {
			t.Error(err)
		}
	})
	const grace = 500 * time.Millisecond // of a busy machine
	within := func(what string, limit time.Duration, do func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := do(ctx)
		if took := servers.env.Since(began); err == nil || took > limit+grace {
			t.Errorf("%s: %v after %v, want an error within %v", what, err, took.Round(time.Millisecond), limit)
		}
	}
	within("append", time.Second, func(ctx context.Context) error {
		_, err := c.Append(ctx, ps[0], []im.Entry{{Value: []byte("hung")}})
		if im.CodeOf(err) != im.CodeUnavailable {
			t.Errorf("append: %v", err)
		}
		return err
	})
	within("poll", time.Second, func(ctx context.Context) error {
		_, err := r.Poll(ctx)
		return err
	})
	within("read", time.Second, func(ctx context.Context) error {
		_, err := c.Read(ctx, ps[0], 0, 1000)
		return err
	})
	within("bounds", time.Second, func(ctx context.Context) error {
		_, err := c.Bounds(ctx, ps)
		return err
	})
	within("ping", time.Second, c.Ping)
	within("verify", time.Second, func(ctx context.Context) error {
		return c.VerifyTopics(ctx, []kafka.TopicSpec{{Name: ps[0].Topic, Partitions: 2, Replication: 1, MinISR: 1}})
	})
	within("open", time.Second, func(ctx context.Context) error {
		other, err := kafka.Open(ctx, cfg, kafka.Deps{})
		if err == nil {
			other.Close()
		} else if strings.ContainsRune(err.Error(), '\n') || !strings.Contains(err.Error(), servers.kafka.Addr()) {
			t.Errorf("open: %v", err)
		}
		return err
	})
	hung := make(chan error, 1)
	go func() {
		_, err := c.Append(context.Background(), ps[1], []im.Entry{{Value: []byte("hung")}})
		hung <- err
	}()
	eventually(t, "the append waits for its answer", func() error {
		if c.AppendStats().Queued == 0 {
			return errors.New("nothing is queued")
		}
		return nil
	})
	within("close", time.Second, func(context.Context) error {
		c.Close()
		return <-hung
	})
}

// Every wrong setting is told in a line with its remedy, and the remedy heals it.
func TestKafkaVerify(t *testing.T) {
	c := openKafka(t, kafka.Config{Brokers: []string{servers.kafka.Addr()}})
	p := kafkaTopic(t, c, 2, 1, 1)[0]
	spec := kafka.TopicSpec{Name: p.Topic, Partitions: 2, Replication: 1, MinISR: 1, Retention: 72 * time.Hour}
	if err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{spec}); err != nil {
		t.Fatalf("as created: %v", err)
	}
	admin := kafkago.Client{Addr: kafkago.TCP(servers.kafka.Addr()), Timeout: 10 * time.Second, Transport: &kafkago.Transport{}}
	defer admin.Transport.(*kafkago.Transport).CloseIdleConnections()
	alter := func(settings map[string]string) {
		t.Helper()
		resource := kafkago.IncrementalAlterConfigsRequestResource{ResourceType: kafkago.ResourceTypeTopic, ResourceName: p.Topic}
		for name, value := range settings {
			resource.Configs = append(resource.Configs, kafkago.IncrementalAlterConfigsRequestConfig{Name: name, Value: value, ConfigOperation: kafkago.ConfigOperationSet})
		}
		res, err := admin.IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{Resources: []kafkago.IncrementalAlterConfigsRequestResource{resource}})
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Resources[0].Error; err != nil {
			t.Fatal(err)
		}
	}
	wrong := map[string]string{
		"cleanup.policy": "compact", "unclean.leader.election.enable": "true", "retention.ms": "60000", "retention.bytes": "1000000",
		"message.timestamp.type": "CreateTime", "max.message.bytes": "1000",
	}
	alter(wrong)
	remedies := make(map[string]string)
	eventually(t, "all are told", func() error {
		err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{spec})
		if err == nil {
			return errors.New("nothing is told")
		}
		clear(remedies)
		for line := range strings.Lines(err.Error()) {
			for name, value := range wrong {
				_, remedy, ok := strings.Cut(line, "run: kafka-configs --bootstrap-server "+servers.kafka.Addr()+" --alter --topic "+p.Topic+" --add-config "+name+"=")
				if ok && strings.Contains(line, name+" is "+value) {
					remedies[name] = strings.TrimSpace(remedy)
				}
			}
		}
		if len(remedies) != len(wrong) {
			return fmt.Errorf("%d of %d are told: %w", len(remedies), len(wrong), err)
		}
		return nil
	})
	alter(remedies)
	eventually(t, "all is well again", func() error { return c.VerifyTopics(t.Context(), []kafka.TopicSpec{spec}) })

	spec.Partitions, spec.Replication = 4, 3
	missing := kafka.TopicSpec{Name: unique(), Partitions: 1, Replication: 1, MinISR: 1}
	err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{spec, missing})
	for _, want := range []string{
		p.Topic + ": partitions is 2, want 4", p.Topic + ": replication is 1, want 3 or more",
		missing.Name + ": the topic is missing, want present: run: antipode migrate",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
}

// What a topic's compression.type makes of batches is read as it was appended.
func TestKafkaCompresses(t *testing.T) {
	c := openKafka(t, kafka.Config{Brokers: []string{servers.kafka.Addr()}})
	admin := kafkago.Client{Addr: kafkago.TCP(servers.kafka.Addr()), Timeout: 10 * time.Second, Transport: &kafkago.Transport{}}
	defer admin.Transport.(*kafkago.Transport).CloseIdleConnections()
	for _, codec := range []string{"gzip", "snappy", "lz4", "zstd"} {
		p := im.Partition{Topic: unique()}
		res, err := admin.CreateTopics(t.Context(), &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{{
			Topic: p.Topic, NumPartitions: 1, ReplicationFactor: 1,
			ConfigEntries: []kafkago.ConfigEntry{{ConfigName: "compression.type", ConfigValue: codec}},
		}}})
		if err := errors.Join(err, res.Errors[p.Topic]); err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("what was said ", 1000)
		if _, err := c.Append(t.Context(), p, []im.Entry{{Value: []byte(text)}, {Key: []byte("k"), Value: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
		entries, err := c.Read(t.Context(), p, 0, 4<<20)
		if err != nil || len(entries) != 2 {
			t.Fatalf("%s: %d entries, %v", codec, len(entries), err)
		}
		for i, e := range entries {
			if e.Offset != int64(i) || string(e.Value) != text {
				t.Errorf("%s: entry %d stands at %d, of %d bytes", codec, i, e.Offset, len(e.Value))
			}
		}
	}
}
