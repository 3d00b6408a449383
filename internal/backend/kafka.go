package backend

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/internal/process"
)

// formatLimit bounds the making of a data folder, which takes a JVM two seconds on an idle machine.
const formatLimit = time.Minute

// KafkaConfig says where an Apache Kafka broker lives, which is a controller too (KRaft, combined mode).
type KafkaConfig struct {
	Name           string            // "kafka" if empty
	Dir            string            // holds data/, its configuration and the logs of the JVM; made if it does not exist
	Host           string            // to listen on
	Port           int               // of clients, PLAINTEXT; 9092 if 0
	ControllerPort int               // of the quorum; 9093 if 0
	Node           int               // 1, 2, 3…; 1 if 0
	Cluster        string            // any text that names the cluster, the same on all its nodes; Name if there are no peers
	Peers          []KafkaPeer       // all nodes of the quorum, this one included; empty: this one alone
	Heap           int               // MB; 256 if 0
	Quick          bool              // compiles quickly rather than well: starts with half the work, and serves less; for tests
	Settings       map[string]string // of server.properties, beside and above those that every broker gets
	Secure         *KafkaSecurity    // a second listener; nil: none
}

// KafkaPeer is a node of a quorum.
type KafkaPeer struct {
	Node           int
	Host           string
	ControllerPort int // 9093 if 0
}

// KafkaSecurity is a listener with TLS, SASL or both. Brokers, and the probe of readiness, go on using the plain one.
type KafkaSecurity struct {
	Port      int               // 9094 if 0
	Cert, Key string            // PEM files of the broker's certificate chain and PKCS #8 key; empty: no TLS
	ClientCA  string            // PEM file; clients must show a certificate it signed; empty: they need none
	Users     map[string]string // password by name, for PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 alike; empty: no SASL. SCRAM knows those of the first Prepare.
	ACLs      bool              // users may do what ACLs allow them, and who comes to the plain listener may do everything
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
func (k *Kafka) Prepare(ctx context.Context) (err error) {
	if k.cfg.Cluster == "" {
		if len(k.cfg.Peers) > 0 {
			return fmt.Errorf("%s: a broker with peers must be told the name of their cluster", k.cfg.Name)
		}
		k.cfg.Cluster = k.cfg.Name
	}
	if k.cfg.Dir, err = folder(k.cfg.Name, k.cfg.Dir); err != nil {
		return err
	}
	if k.java, k.jars, err = FindKafka(); err != nil {
		return err
	}
	ports := []int{k.cfg.Port, k.cfg.ControllerPort}
	if k.cfg.Secure != nil {
		ports = append(ports, k.securePort())
	}
	if err := checkFree(k.cfg.Name, k.cfg.Host, ports...); err != nil {
		return err
	}
	if err := k.configure(); err != nil {
		return err
	}
	return k.format(ctx)
}

func (k *Kafka) path(file string) string { return filepath.Join(k.cfg.Dir, file) }

func (k *Kafka) securePort() int { return cmp.Or(k.cfg.Secure.Port, 9094) }

// clusterID is the identifier of the cluster that Kafka wants: 16 bytes, here of the hash of its name. It must not begin
// with a dash, which the tools would take for an option.
func (k *Kafka) clusterID() string {
	sum := sha256.Sum256([]byte(k.cfg.Cluster))
	sum[0] &= 0x7f
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

func (k *Kafka) configure() error {
	settings, err := k.settings()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s=%s\n", key, strings.ReplaceAll(settings[key], `\`, `\\`))
	}
	for _, file := range []struct {
		name, text string
	}{
		{"server.properties", text.String()}, // it may hold passwords
		{"log4j.properties", quiet},
	} {
		if err := os.WriteFile(k.path(file.name), []byte(file.text), 0o600); err != nil {
			return fmt.Errorf("%s: configuration: %w", k.cfg.Name, err)
		}
	}
	return nil
}

// quiet is the configuration of the broker's log: what somebody should look at, to standard output.
const quiet = `log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%p %c{1}: %m%n
log4j.logger.kafka.server.KafkaRaftServer=INFO
`

func (k *Kafka) settings() (map[string]string, error) {
	peers := k.cfg.Peers
	if len(peers) == 0 {
		peers = []KafkaPeer{{Node: k.cfg.Node, Host: k.cfg.Host, ControllerPort: k.cfg.ControllerPort}}
	}
	var voters []string
	for _, p := range peers {
		voters = append(voters, fmt.Sprintf("%d@%s", p.Node, address(p.Host, cmp.Or(p.ControllerPort, 9093))))
	}
	replicas, minimum := strconv.Itoa(min(3, len(peers))), strconv.Itoa(min(2, len(peers)))
	settings := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(k.cfg.Node),
		"controller.quorum.voters":       strings.Join(voters, ","),
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     "PLAIN",
		"listeners":                      "PLAIN://" + k.Addr() + ",CONTROLLER://" + address(k.cfg.Host, k.cfg.ControllerPort),
		"advertised.listeners":           "PLAIN://" + k.Addr(),
		"listener.security.protocol.map": "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       k.path("data"),

		// What the design asks of topics; those that antipode migrate makes say so themselves.
		"auto.create.topics.enable":      "false",
		"unclean.leader.election.enable": "false",
		"default.replication.factor":     replicas,
		"min.insync.replicas":            minimum,

		// Internal topics, which nothing of ours uses.
		"offsets.topic.replication.factor":         replicas,
		"offsets.topic.num.partitions":             "1",
		"transaction.state.log.replication.factor": replicas,
		"transaction.state.log.min.isr":            minimum,
		"transaction.state.log.num.partitions":     "1",
		"group.initial.rebalance.delay.ms":         "0",

		// A broker that dies is noticed within 3 s instead of 9. One that was killed is let in again only then, too.
		"broker.session.timeout.ms":               "3000",
		"broker.heartbeat.interval.ms":            "500",
		"leader.imbalance.check.interval.seconds": "10", // leaders return to a broker that came back

		// A small machine: few threads, and a buffer of 4 MB instead of 128 for a cleaner that has nothing to clean.
		"num.network.threads":               "2",
		"num.io.threads":                    "4",
		"background.threads":                "2",
		"log.cleaner.threads":               "1",
		"log.cleaner.dedupe.buffer.size":    "4194304",
		"num.recovery.threads.per.data.dir": "2",
	}
	if err := k.secure(settings); err != nil {
		return nil, err
	}
	maps.Copy(settings, k.cfg.Settings)
	return settings, nil
}

// secure adds the second listener.
func (k *Kafka) secure(settings map[string]string) error {
	s := k.cfg.Secure
	if s == nil {
		return nil
	}
	tls, sasl := s.Cert != "", len(s.Users) > 0
	protocol := map[[2]bool]string{{true, false}: "SSL", {false, true}: "SASL_PLAINTEXT", {true, true}: "SASL_SSL"}[[2]bool{tls, sasl}]
	if protocol == "" {
		return fmt.Errorf("%s: its secure listener has neither a certificate nor users", k.cfg.Name)
	}
	settings["listeners"] += ",SECURE://" + k.SecureAddr()
	settings["advertised.listeners"] += ",SECURE://" + k.SecureAddr()
	settings["listener.security.protocol.map"] += ",SECURE:" + protocol
	const of = "listener.name.secure."
	if tls {
		if err := k.keystore(s.Cert, s.Key); err != nil {
			return err
		}
		settings[of+"ssl.keystore.type"], settings[of+"ssl.keystore.location"] = "PEM", k.path("keystore.pem")
		if s.ClientCA != "" {
			settings[of+"ssl.client.auth"] = "required"
			settings[of+"ssl.truststore.type"], settings[of+"ssl.truststore.location"] = "PEM", s.ClientCA
		}
	}
	if sasl {
		plain := "org.apache.kafka.common.security.plain.PlainLoginModule required"
		for _, name := range slices.Sorted(maps.Keys(s.Users)) {
			if !credential.MatchString(name) || !credential.MatchString(s.Users[name]) {
				return fmt.Errorf("%s: name and password of user %q may hold letters, digits, . _ and - only", k.cfg.Name, name)
			}
			plain += fmt.Sprintf(" user_%s=%q", name, s.Users[name])
		}
		settings[of+"sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
		settings[of+"plain.sasl.jaas.config"] = plain + ";"
		for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
			settings[of+mechanism+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	if s.ACLs {
		settings["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
		settings["super.users"] = "User:ANONYMOUS"
	}
	return nil
}

// credential is what needs no escaping in any of the three notations that a credential goes through.
var credential = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// keystore puts certificate and key into one file, as Kafka wants them.
func (k *Kafka) keystore(cert, key string) error {
	chain, err1 := os.ReadFile(cert)
	private, err2 := os.ReadFile(key)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%s: its certificate: %w", k.cfg.Name, err)
	}
	if err := os.WriteFile(k.path("keystore.pem"), slices.Concat(private, []byte("\n"), chain), 0o600); err != nil {
		return fmt.Errorf("%s: its certificate: %w", k.cfg.Name, err)
	}
	return nil
}

// format makes the data folder. StorageTool writes meta.properties last, so that an interrupted one is simply made again.
func (k *Kafka) format(ctx context.Context) error {
	meta, err := os.ReadFile(k.path("data/meta.properties"))
	if err == nil {
		if !bytes.Contains(meta, []byte("cluster.id="+k.clusterID()+"\n")) {
			return fmt.Errorf("%s: %s belongs to another Kafka cluster than %q: use a fresh folder, or the former name", k.cfg.Name, k.path("data"), k.cfg.Cluster)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", k.cfg.Name, err)
	}
	args := []string{"format", "--cluster-id", k.clusterID(), "--config", k.path("server.properties")}
	if k.cfg.Secure != nil {
		for _, name := range slices.Sorted(maps.Keys(k.cfg.Secure.Users)) {
			for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
				args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, name, k.cfg.Secure.Users[name]))
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, formatLimit)
	defer cancel()
	var own process.Account
	out, err := own.Command(ctx, k.environment(), k.java, append(k.jvm("-Xmx64m", "-XX:TieredStopAtLevel=1"), append([]string{"kafka.tools.StorageTool"}, args...)...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: format %s: %w\n%s", k.cfg.Name, k.path("data"), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// environment leaves out what would change the JVM (JAVA_TOOL_OPTIONS and the like).
func (k *Kafka) environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// jvm returns the flags that every JVM gets. The archive of loaded classes, which make deps makes, halves the work of a
// start; a JVM that it does not fit does without.
func (k *Kafka) jvm(flags ...string) []string {
	if archive := filepath.Join(k.jars, "classes.jsa"); exists(archive) {
		flags = append(flags, "-XX:SharedArchiveFile="+archive)
	}
	return append(flags, "-XX:+UseSerialGC", "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr", "-Djava.awt.headless=true",
		"-Dlog4j.configuration=file:"+k.path("log4j.properties"), "-cp", filepath.Join(k.jars, "*"))
}

// Spec says how to start it. Most of the heap is for new objects: a broker makes 50 MB a second of them at 2,000 records
// a second, nearly all for one request, and what a collection takes (10 ms here) hardly depends on how many there are. So
// the fewer the collections, the fewer the appends that wait for one.
func (k *Kafka) Spec() process.Spec {
	heap, young := k.cfg.Heap, k.cfg.Heap*5/8
	flags := []string{fmt.Sprintf("-Xms%dm", heap), fmt.Sprintf("-Xmx%dm", heap), fmt.Sprintf("-Xmn%dm", young), "-XX:+ExitOnOutOfMemoryError"}
	if k.cfg.Quick {
		flags = append(flags, "-XX:TieredStopAtLevel=1")
	}
	return process.Spec{
		Name: k.cfg.Name, Path: k.java, Dir: k.cfg.Dir, Env: k.environment(),
		Args: append(k.jvm(flags...), "kafka.Kafka", k.path("server.properties")),
	}
}

// Ready asks it who is in the cluster, and looks for itself: a broker that is not let in yet leads nothing.
func (k *Kafka) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	brokers, err := askBrokers(ctx, k.Addr())
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w", k.cfg.Name, k.Addr(), err)
	}
	if !slices.Contains(brokers, int32(k.cfg.Node)) {
		return fmt.Errorf("%s: %s is not part of its cluster yet", k.cfg.Name, k.Addr())
	}
	return nil
}
