package backend

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// brokers is the answer of a cluster with one broker.
func brokers(node int32) string {
	response := kmsg.NewMetadataResponse()
	response.Version = 1
	response.Brokers = []kmsg.MetadataResponseBroker{{NodeID: node, Host: "127.0.0.1", Port: 9092}}
	body := response.AppendTo(kbin.AppendInt32(nil, 1))
	return string(append(kbin.AppendInt32(nil, int32(len(body))), body...))
}

func TestClusterID(t *testing.T) {
	seen := map[string]bool{}
	for _, cluster := range []string{"eu", "us", "ap", "a", "b", "c", "d", "e", "f"} {
		id := NewKafka(KafkaConfig{Cluster: cluster}).clusterID()
		if raw, err := base64.RawURLEncoding.DecodeString(id); err != nil || len(raw) != 16 || strings.HasPrefix(id, "-") || seen[id] {
			t.Errorf("%s: %s", cluster, id)
		}
		seen[id] = true
	}
}

func TestKafkaSettings(t *testing.T) {
	peers := []KafkaPeer{{1, "127.0.0.11", 0}, {2, "127.0.0.12", 0}, {3, "127.0.0.13", 9999}}
	for name, c := range map[string]struct {
		cfg  KafkaConfig
		want map[string]string
	}{
		"alone": {
			KafkaConfig{Host: "127.0.0.11"},
			map[string]string{
				"node.id": "1", "controller.quorum.voters": "1@127.0.0.11:9093", "listeners": "PLAIN://127.0.0.11:9092,CONTROLLER://127.0.0.11:9093",
				"default.replication.factor": "1", "min.insync.replicas": "1", "auto.create.topics.enable": "false", "unclean.leader.election.enable": "false",
			},
		},
		"of three": {
			KafkaConfig{Host: "127.0.0.13", Node: 3, ControllerPort: 9999, Cluster: "eu", Peers: peers},
			map[string]string{
				"node.id": "3", "controller.quorum.voters": "1@127.0.0.11:9093,2@127.0.0.12:9093,3@127.0.0.13:9999",
				"default.replication.factor": "3", "min.insync.replicas": "2", "offsets.topic.replication.factor": "3",
			},
		},
		"with users": {
			KafkaConfig{Host: "127.0.0.11", Secure: &KafkaSecurity{Users: map[string]string{"b": "2", "a": "1"}}},
			map[string]string{
				"advertised.listeners":                         "PLAIN://127.0.0.11:9092,SECURE://127.0.0.11:9094",
				"listener.security.protocol.map":               "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_PLAINTEXT",
				"listener.name.secure.plain.sasl.jaas.config":  `org.apache.kafka.common.security.plain.PlainLoginModule required user_a="1" user_b="2";`,
				"listener.name.secure.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
			},
		},
		"with its own": {
			KafkaConfig{Host: "127.0.0.11", Settings: map[string]string{"min.insync.replicas": "5", "log.segment.bytes": "1048576"}},
			map[string]string{"min.insync.replicas": "5", "log.segment.bytes": "1048576"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NewKafka(c.cfg).settings()
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range c.want {
				if got[key] != want {
					t.Errorf("%s is %q, want %q", key, got[key], want)
				}
			}
		})
	}
}

func TestKafkaKeystore(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, text := range map[string]string{cert: "CERT\n", key: "KEY"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	settings, err := NewKafka(KafkaConfig{Dir: dir, Secure: &KafkaSecurity{Cert: cert, Key: key, ClientCA: "/ca.pem"}}).settings()
	if err != nil {
		t.Fatal(err)
	}
	if got := settings["listener.name.secure.ssl.client.auth"] + " " + settings["listener.name.secure.ssl.truststore.location"]; got != "required /ca.pem" {
		t.Errorf("clients: %s", got)
	}
	text, err := os.ReadFile(settings["listener.name.secure.ssl.keystore.location"])
	if err != nil || string(text) != "KEY\nCERT\n" {
		t.Errorf("keystore %q: %v", text, err)
	}
}

func TestKafkaRefuses(t *testing.T) {
	for says, cfg := range map[string]KafkaConfig{
		"eu/kafka: a broker with peers must be told the name of their cluster": {Peers: []KafkaPeer{{1, "127.0.0.1", 0}}},
		"neither a certificate nor users":                                      {Secure: &KafkaSecurity{}},
		`name and password of user "a" may hold`:                               {Secure: &KafkaSecurity{Users: map[string]string{"a": `x"y`}}},
		"its certificate: open /nowhere":                                       {Secure: &KafkaSecurity{Cert: "/nowhere", Key: "/nowhere"}},
	} {
		cfg.Name = "eu/kafka"
		k := NewKafka(cfg)
		_, err := k.settings()
		if err == nil {
			err = k.Prepare(t.Context())
		}
		wantError(t, err, says)
	}
}

// A data folder that belongs to another cluster is refused in words; the broker would say it in a stack trace.
func TestKafkaOfAnotherCluster(t *testing.T) {
	k := NewKafka(KafkaConfig{Name: "eu/kafka", Dir: t.TempDir(), Cluster: "eu"})
	if err := os.Mkdir(k.path("data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for cluster, says := range map[string]string{"us": "belongs to another Kafka cluster", "eu": ""} {
		meta := "version=1\ncluster.id=" + NewKafka(KafkaConfig{Cluster: cluster}).clusterID() + "\nnode.id=1\n"
		if err := os.WriteFile(k.path("data/meta.properties"), []byte(meta), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := k.format(t.Context()); says != "" {
			wantError(t, err, "eu/kafka: ", says)
		} else if err != nil {
			t.Error(err)
		}
	}
}
