package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

func openKafka(t *testing.T, k *Kafka) *kafka.Cluster {
	t.Helper()
	c, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{k.Addr()}, Embedded: true}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What was acked is there after a clean stop and after a kill, and appends go on at the next offset.
func TestKafkaKeepsItsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kafka")
	addr := "127.0.0.1:0"
	p := im.Partition{Topic: "msg.eu.direct", Number: 1}
	spec := []kafka.TopicSpec{{Name: p.Topic, Partitions: 2, Replication: 1, MinISR: 1, Retention: 72 * time.Hour}}
	for i, end := range []func(*Kafka) error{(*Kafka).Close, (*Kafka).Kill, (*Kafka).Kill, (*Kafka).Close, (*Kafka).Kill} {
		k, err := StartKafka(t.Context(), KafkaConfig{Addr: addr, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		addr = k.Addr()
		c := openKafka(t, k)
		if err := errors.Join(c.CreateTopics(t.Context(), spec), c.VerifyTopics(t.Context(), spec)); err != nil {
			t.Fatal(err)
		}
		entries, err := c.Read(t.Context(), p, 0, 1<<20)
		if err != nil || len(entries) != i {
			t.Fatalf("start %d: %d entries: %v", i, len(entries), err)
		}
		for j, e := range entries {
			if string(e.Value) != fmt.Sprint(j) {
				t.Errorf("start %d: %s stands at %d", i, e.Value, j)
			}
		}
		first, err := c.Append(t.Context(), p, []im.Entry{{Value: fmt.Append(nil, i)}})
		if err != nil || first != int64(i) {
			t.Fatalf("start %d: appended at %d: %v", i, first, err)
		}
		if err := end(k); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if _, err := os.Stat(dir + killed); err == nil {
			t.Errorf("start %d: %s is left", i, dir+killed)
		}
	}
}

// A process that ended in the middle of Kill is taken up where it was.
func TestKafkaTakesUpAKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kafka")
	k, err := StartKafka(t.Context(), KafkaConfig{Addr: "127.0.0.1:0", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c := openKafka(t, k)
	p := im.Partition{Topic: "read.eu", Number: 0}
	if err := c.CreateTopics(t.Context(), []kafka.TopicSpec{{Name: p.Topic, Partitions: 1, Replication: 1, MinISR: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), p, []im.Entry{{Value: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := errors.Join(k.Close(), os.Rename(dir, dir+killed), os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "meta.json"), []byte("half"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if k, err = StartKafka(t.Context(), KafkaConfig{Addr: "127.0.0.1:0", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	c = openKafka(t, k)
	defer c.Close()
	if got, err := c.Read(t.Context(), p, 0, 1000); err != nil || len(got) != 1 {
		t.Errorf("%d entries: %v", len(got), err)
	}
}

func TestKafkaNamesATakenPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = StartKafka(t.Context(), KafkaConfig{Addr: ln.Addr().String(), Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()) || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a taken port: %v", err)
	}
	if _, err := StartKafka(t.Context(), KafkaConfig{Addr: "127.0.0.1:0"}); err == nil {
		t.Error("no data folder was taken")
	}
}
