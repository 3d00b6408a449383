package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/antipode-im/antipode/internal/await"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/faultnet"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/process"
	"github.com/antipode-im/antipode/internal/testenv"
)

const (
	partitions = 16
	// patience bounds every wait for a state.
	patience = 3 * time.Minute
	portFar  = 9095 // of eu's broker as MirrorMaker reaches it, through faultnet
	portRPC  = 7401
	portHTTP = 7402
)

// world is two regions' brokers and discovery, and what reaches across.
type world struct {
	o       *options
	env     *testenv.Env
	binary  string
	keys    string
	brokers map[im.Region]*backend.Kafka
	consuls map[im.Region]*backend.Consul
	logs    map[im.Region]*kafka.Cluster
	link    *faultnet.Proxy // us's replicator → eu's
	back    *faultnet.Proxy // eu's replicator → us's
	fetches *faultnet.Proxy // MirrorMaker → eu's broker
	stamps  stamps
	runs    int
}

// source is the topic that is replicated.
func source() string { return im.MsgTopic("eu", im.LaneDirect) }

// build starts the servers and compiles the command.
func build(ctx context.Context, o *options) (_ *world, err error) {
	w := &world{o: o, brokers: map[im.Region]*backend.Kafka{}, consuls: map[im.Region]*backend.Consul{}, logs: map[im.Region]*kafka.Cluster{}}
	if w.env, err = testenv.New(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.env.Logs(os.Stderr)
			err = errors.Join(err, w.close())
		}
	}()
	e := w.env
	var servers []backend.Server
	for i, r := range []im.Region{"eu", "us"} {
		host := e.Host(1 + i)
		plain := host + ":9092"
		settings := map[string]string{"num.network.threads": "2", "num.io.threads": "4"}
		if r == "eu" { // a second listener, which says that it is to be reached through the proxy
			settings["listeners"] = fmt.Sprintf("PLAIN://%s,FAR://%s:%d,CONTROLLER://%s:9093", plain, host, portFar, host)
			settings["advertised.listeners"] = fmt.Sprintf("PLAIN://%s,FAR://%s:%d", plain, e.Host(5), portFar)
			settings["listener.security.protocol.map"] = "PLAIN:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT"
		}
		w.brokers[r] = backend.NewKafka(backend.KafkaConfig{
			Name: "kafka of " + string(r), Dir: e.Dir("kafka-" + string(r)), Host: host, Heap: 1024, Settings: settings,
		})
		w.consuls[r] = backend.NewConsul(backend.ConsulConfig{
			Name: "consul of " + string(r), Dir: e.Dir("consul-" + string(r)), Host: host, Datacenter: string(r),
			WAN: []string{e.Host(1) + ":8302", e.Host(2) + ":8302"},
		})
		servers = append(servers, w.brokers[r], w.consuls[r])
	}
	built := make(chan error, 1)
	go func() { built <- w.compile(ctx) }()
	_, err = e.Start(ctx, servers...)
	if err = errors.Join(err, <-built); err != nil {
		return nil, err
	}
	for _, p := range []struct {
		at     **faultnet.Proxy
		listen string
		target string
	}{
		{&w.link, fmt.Sprintf("%s:%d", e.Host(5), portRPC), fmt.Sprintf("%s:%d", e.Host(3), portRPC)},
		{&w.back, fmt.Sprintf("%s:%d", e.Host(6), portRPC), fmt.Sprintf("%s:%d", e.Host(4), portRPC)},
		{&w.fetches, fmt.Sprintf("%s:%d", e.Host(5), portFar), fmt.Sprintf("%s:%d", e.Host(1), portFar)},
	} {
		if *p.at, err = faultnet.Listen(p.listen, p.target); err != nil {
			return nil, err
		}
	}
	for r := range w.brokers {
		if err := w.openLog(ctx, r); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// compile builds the command and makes certificates.
func (w *world) compile(ctx context.Context) error {
	w.binary, w.keys = w.env.Dir("antipode"), w.env.Dir("keys")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", w.binary, "github.com/antipode-im/antipode/cmd/antipode").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	authority, err := certs.Open(w.keys)
	if err != nil {
		return err
	}
	for r := range w.brokers {
		if _, err := authority.Identity(app.ServiceReplicator, r); err != nil {
			return err
		}
	}
	return nil
}

// openLog makes a region's topics.
func (w *world) openLog(ctx context.Context, r im.Region) error {
	cfg := kafka.Config{Brokers: []string{w.brokers[r].Addr()}, FetchPace: time.Nanosecond, QueueBytes: 256 << 20}
	log, err := kafka.Open(ctx, cfg, kafka.Deps{})
	if err != nil {
		return err
	}
	w.logs[r] = log
	site := app.Site{
		Region: r, Origin: im.Origin(r), Regions: []im.Region{"eu", "us"}, Origins: []im.Origin{"eu", "us"}, Partitions: partitions,
		Kafka: cfg, Topic: kafka.TopicSpec{Replication: 1, MinISR: 1},
	}
	// A broker that has just made a topic does not know at once that it leads it.
	return await.Within(ctx, patience, 100*time.Millisecond, func() (bool, string) {
		if err := app.MigrateLog(ctx, log, site); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
}

func (w *world) close() error {
	for _, log := range w.logs {
		log.Close()
	}
	var errs []error
	for _, p := range []*faultnet.Proxy{w.link, w.back, w.fetches} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(append(errs, w.env.Close())...)
}

// distance sets the one-way delay of everything that crosses.
func (w *world) distance(trip time.Duration) {
	for _, p := range []*faultnet.Proxy{w.link, w.back, w.fetches} {
		p.Delay(trip / 2)
	}
}

// running is a process that replicates.
type running struct {
	*process.Process
	admin string
	log   *os.File
}

// start runs a program with its output in a file of its own.
func (w *world) start(name, path string, args ...string) (*running, error) {
	w.runs++
	log, err := os.Create(w.env.Dir(fmt.Sprintf("%s-%d.log", name, w.runs)))
	if err != nil {
		return nil, err
	}
	spec := process.Spec{Name: name, Path: path, Args: args, Output: log}
	p, err := process.Start(spec)
	if err != nil {
		log.Close()
		return nil, err
	}
	return &running{Process: p, log: log}, nil
}

// end stops it as kill -9 does: what it was counted for is over.
func (r *running) end() error {
	defer r.log.Close()
	return r.Kill()
}

// replicator starts our replicator of a region.
func (w *world) replicator(r im.Region) (*running, error) {
	at, peer, via := 3, im.Region("us"), w.back.Addr()
	if r == "us" {
		at, peer, via = 4, "eu", w.link.Addr()
	}
	admin := fmt.Sprintf("%s:%d", w.env.Host(at), portHTTP)
	name := filepath.Join(w.keys, certs.Name(app.ServiceReplicator, r))
	text := fmt.Sprintf(`region: %s
origins: [eu, us]
partitions: %d
instance: replicator
rpc: %s:%d
admin: %s
log: {brokers: [%q], replication: 1, min_in_sync: 1}
discovery: {address: %q}
tls: {ca: %q, cert: %q, key: %q}
replicator: {peers: {%s: %q}}
telemetry: {log_level: info}
`, r, partitions, w.env.Host(at), portRPC, admin, w.brokers[r].Addr(), w.consuls[r].Addr(),
		filepath.Join(w.keys, "ca.pem"), name+".pem", name+"-key.pem", peer, via)
	file := w.env.Dir("replicator-" + string(r) + ".yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := w.start("replicator-"+string(r), w.binary, "replicator", "--config", file)
	if err != nil {
		return nil, err
	}
	p.admin = admin
	return p, nil
}

// ours starts both ends.
func (w *world) ours() ([]*running, error) {
	eu, err := w.replicator("eu")
	if err != nil {
		return nil, err
	}
	us, err := w.replicator("us")
	if err != nil {
		return nil, errors.Join(err, eu.end())
	}
	return []*running{eu, us}, nil
}

// mirror starts MirrorMaker 2: 4 tasks, lz4, linger 5 ms, batches of 256 KiB, fetches of 4 MiB.
func (w *world) mirror() ([]*running, error) {
	java, _, err := backend.FindKafka()
	if err != nil {
		return nil, err
	}
	jars, err := backend.FindMirror()
	if err != nil {
		return nil, err
	}
	dir := w.env.Dir("mirror")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf(`clusters=eu,us
eu.bootstrap.servers=%s
us.bootstrap.servers=%s
eu->us.enabled=true
us->eu.enabled=false
topics=%s
tasks.max=4
replication.factor=1
offset-syncs.topic.replication.factor=1
checkpoints.topic.replication.factor=1
heartbeats.topic.replication.factor=1
us.config.storage.replication.factor=1
us.offset.storage.replication.factor=1
us.status.storage.replication.factor=1
us.offset.storage.partitions=1
us.status.storage.partitions=1
emit.checkpoints.enabled=false
emit.heartbeats.enabled=false
sync.topic.acls.enabled=false
us.producer.compression.type=lz4
us.producer.linger.ms=5
us.producer.batch.size=262144
eu->us.producer.compression.type=lz4
eu.consumer.fetch.max.bytes=4194304
eu.consumer.max.partition.fetch.bytes=4194304
eu->us.consumer.fetch.max.bytes=4194304
eu->us.consumer.max.partition.fetch.bytes=4194304
`, w.fetches.Addr(), w.brokers["us"].Addr(), strings.ReplaceAll(source(), ".", `\\.`))
	log4j := "log4j.rootLogger=WARN, out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\n" +
		"log4j.appender.out.layout=org.apache.log4j.PatternLayout\nlog4j.appender.out.layout.ConversionPattern=%p %c{1}: %m%n\n"
	for file, text := range map[string]string{"mm2.properties": settings, "log4j.properties": log4j} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	// What connect-mirror-maker.sh gives the JVM.
	p, err := w.start("mirror", java, "-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
		"-Dlog4j.configuration=file:"+filepath.Join(dir, "log4j.properties"), "-cp", filepath.Join(jars, "*"),
		"org.apache.kafka.connect.mirror.MirrorMaker", filepath.Join(dir, "mm2.properties"))
	if err != nil {
		return nil, err
	}
	return []*running{p}, nil
}

// stop ends processes, and shows what they said if something went wrong.
func (w *world) stop(ps []*running, err error) error {
	errs := []error{err}
	for _, p := range ps {
		errs = append(errs, p.end())
		if text, _ := os.ReadFile(p.log.Name()); err != nil || w.o.verbose {
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n", p.Name(), text[max(0, len(text)-8<<10):])
		}
	}
	return errors.Join(errs...)
}

// profiled has a process write a CPU profile while the run goes on; the function returned waits for it.
func (w *world) profiled(ctx context.Context, run string, p *running, length time.Duration) func() {
	if w.o.profile == "" || p.admin == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", p.admin, max(1, int(length.Seconds())))
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return
			}
			r, err := http.DefaultClient.Do(req)
			if err != nil { // not up yet
				_ = await.Moment(ctx, time.Now().Add(20*time.Millisecond)) // the loop asks ctx
				continue
			}
			defer r.Body.Close()
			if b, err := io.ReadAll(r.Body); err == nil {
				_ = os.WriteFile(filepath.Join(w.o.profile, run+"-"+p.Name()+".pprof"), b, 0o600)
			}
			return
		}
	}()
	return func() { <-done }
}
