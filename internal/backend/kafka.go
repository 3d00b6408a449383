package backend

import (
	"cmp"
	"context"

	"github.com/antipode-im/antipode/internal/process"
)

// KafkaConfig says where an Apache Kafka broker lives, which is a controller too (KRaft, combined mode).
type KafkaConfig struct {
	Name           string      // "kafka" if empty
	Dir            string      // holds data/, its configuration and the logs of the JVM; made if it does not exist
	Host           string      // to listen on
	Port           int         // of clients, PLAINTEXT; 9092 if 0
	ControllerPort int         // of the quorum; 9093 if 0
	Node           int         // 1, 2, 3…; 1 if 0
	Cluster        string      // any text that names the cluster; the same on all its nodes
	Peers          []KafkaPeer // all nodes of the quorum, this one included; empty: this one alone
	Heap           int         // MB; 256 if 0
	Settings       map[string]string
	Secure         *KafkaSecurity // a second listener, nil: none
}

// KafkaPeer is a node of a quorum.
type KafkaPeer struct {
	Node           int
	Host           string
	ControllerPort int // 9093 if 0
}

// KafkaSecurity is a listener with TLS, SASL or both. Brokers and tools go on using the plain one.
type KafkaSecurity struct {
	Port      int               // 9094 if 0
	Cert, Key string            // PEM files of the broker's certificate chain and PKCS #8 key; empty: no TLS
	ClientCA  string            // PEM file; clients must show a certificate it signed; empty: they need none
	Users     map[string]string // password by name, for PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 alike; empty: no SASL
}

// Kafka is a broker.
type Kafka struct {
	cfg        KafkaConfig
	java, jars string
}

// NewKafka describes a broker; Prepare looks at the machine.
func NewKafka(cfg KafkaConfig) *Kafka {
	cfg.Name = cmp.Or(cfg.Name, "kafka")
	cfg.Port = cmp.Or(cfg.Port, 9092)
	cfg.ControllerPort = cmp.Or(cfg.ControllerPort, 9093)
	cfg.Node = cmp.Or(cfg.Node, 1)
	cfg.Heap = cmp.Or(cfg.Heap, 256)
	return &Kafka{cfg: cfg}
}

// Name is what it was called.
func (k *Kafka) Name() string { return k.cfg.Name }

// Addr is the host:port of its plain listener.
func (k *Kafka) Addr() string { return address(k.cfg.Host, k.cfg.Port) }

// SecureAddr is the host:port of its secure listener, "" if it has none.
func (k *Kafka) SecureAddr() string {
	if k.cfg.Secure == nil {
		return ""
	}
	return address(k.cfg.Host, cmp.Or(k.cfg.Secure.Port, 9094))
}

// Prepare formats its data folder unless it is formatted, and writes its configuration.
func (k *Kafka) Prepare(context.Context) (err error) {
	if k.cfg.Dir, err = folder(k.cfg.Name, k.cfg.Dir); err != nil {
		return err
	}
	if k.java, k.jars, err = FindKafka(); err != nil {
		return err
	}
	return nil
}

// Spec says how to start it.
func (k *Kafka) Spec() process.Spec {
	return process.Spec{Name: k.cfg.Name, Path: k.java, Dir: k.cfg.Dir}
}

// Ready asks it who is in the cluster, and finds itself.
func (k *Kafka) Ready(ctx context.Context) error { return ctx.Err() }
