package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

const secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA=="

// whole sets at least one key of every kind.
const whole = `
region: eu
instance: gw-1
origin_epoch: 2
origins: [eu, eu.2, us]
partitions: 4
listen: 127.0.0.1:7400
advertise: gw-1.eu.example:7401
public_url: https://gw-1.eu.example
log:
  brokers:
    - kafka-1:9092
    - kafka-2:9092
  sasl: {mechanism: scram-sha-512, user: antipode, password: hunter2}
timelines:
  urls: [postgres://antipode@db:5432/eu, "postgres://other:hunter2@db:5432/eu?sslPassword=hunter2&sslmode=require"]
  password: hunter2
auth:
  keys:
    - {id: k1, alg: HS256, key: ` + secret + `}
gateway:
  heartbeat: 1m30s
  idle_timeout: 3m
  rate: 7.5
replicator:
  peers:
    us: replicator.us.example:7401
telemetry: # on its own line
  sample_ratio: 1
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "eu.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	path := write(t, whole)
	c, err := Load(path, []string{
		"PATH=/bin", "ANTIPODE_CONFIG=eu.yaml", "ANTIPODE_PARTITIONS=8", "ANTIPODE_LOG_BROKERS=kafka-3:9092, kafka-4:9092",
		"ANTIPODE_REPLICATOR_PEERS=us=us.example:1", "ANTIPODE_GATEWAY_HEARTBEAT=10s", "ANTIPODE_ROUTES_TLS=true",
	}, map[string]string{"gateway.heartbeat": "20s", "origins": "eu.2,us"})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ got, want any }{
		{c.Region, im.Region("eu")},
		{c.Origin(), im.Origin("eu.2")},
		{c.Origins, []im.Origin{"eu.2", "us"}}, // flag over file
		{c.Regions(), []im.Region{"eu", "us"}},
		{c.Partitions, 8},                                         // variable over file
		{c.Log.Brokers, []string{"kafka-3:9092", "kafka-4:9092"}}, // a list replaces a list
		{c.Replicator.Peers, map[im.Region]string{"us": "us.example:1"}},
		{c.Gateway.Heartbeat, 20 * time.Second}, // flag over variable
		{c.Gateway.IdleTimeout, 3 * time.Minute},
		{c.Gateway.Rate, 7.5},
		{c.Routes.TLS, true},
		{c.RPC, ":7401"}, // default
		{c.Timelines.URLs[0].Reveal(), "postgres://antipode:hunter2@db:5432/eu"},
		{c.Timelines.URLs[1].Reveal(), "postgres://other:hunter2@db:5432/eu?sslPassword=hunter2&sslmode=require"},
	} {
		if !reflect.DeepEqual(v.got, v.want) {
			t.Errorf("got %v, want %v", v.got, v.want)
		}
	}
}

// TestErrors: every mistake is named by its key, and by the line, variable or flag where it was made.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name, yaml string
		env        []string
		flags      map[string]string
		want       []string // parts of the message, FILE standing for the file's name
	}{
		{name: "unknown key", yaml: "region: eu\ngateway:\n  max_cons: 5\n", want: []string{"FILE:3: gateway.max_cons: unknown key; did you mean max_conns?"}},
		{name: "unknown section", yaml: "region: eu\nkafka:\n  brokers: []\n", want: []string{"FILE:2: kafka: unknown key"}},
		{name: "unknown key in a list", yaml: "region: eu\nauth:\n  keys:\n    - id: a\n      algorithm: HS256\n", want: []string{"FILE:5: auth.keys[0].algorithm: unknown key"}},
		{name: "a dot in a key is no path", yaml: "region: eu\nlog.brokers: [a:1]\n", want: []string{"FILE:2: log.brokers: unknown key"}},
		{name: "unknown variable", yaml: "region: eu\n", env: []string{"ANTIPODE_LOG_BROKER=a:1"}, want: []string{"environment variable ANTIPODE_LOG_BROKER: no key has this name; did you mean ANTIPODE_LOG_BROKERS?"}},
		{name: "a list of sections has no variable", yaml: "region: eu\n", env: []string{"ANTIPODE_AUTH_KEYS=a"}, want: []string{"ANTIPODE_AUTH_KEYS: no key has this name"}},
		{name: "unknown flag", yaml: "region: eu\n", flags: map[string]string{"gateway.colour": "red"}, want: []string{"flag: gateway.colour: unknown key"}},
		{name: "several at once", yaml: "region: eu\npartitons: 4\ngateway: {burst: x}\n", want: []string{"FILE:2: partitons", "FILE:3: gateway.burst: \"x\" is not a whole number"}},

		{name: "not YAML", yaml: "region: [eu\n", want: []string{"FILE:1: is not YAML"}},
		{name: "two documents", yaml: "region: eu\n---\nregion: us\n", want: []string{"FILE:3: a second YAML document"}},
		{name: "a list for the whole", yaml: "- region: eu\n", want: []string{"FILE:1", "want keys and values, not a list"}},
		{name: "set twice", yaml: "region: eu\nregion: us\n", want: []string{"FILE:2", "region"}},
		{name: "no value", yaml: "region:\n", want: []string{"FILE:1: region: has no value"}},
		{name: "a section for a value", yaml: "region:\n  name: eu\n", want: []string{"FILE:1: region: want a single value, not keys and values"}},
		{name: "a value for a section", yaml: "region: eu\ngateway: 5\n", want: []string{"FILE:2: gateway: want keys and values, not a single value"}},
		{name: "a value for a list", yaml: "region: eu\norigins: eu\n", want: []string{"FILE:2: origins: want a list, not a single value"}},
		{name: "an address that YAML's reader splits", yaml: "region: eu\nlog: {brokers: [127.0.0.1:9092]}\n", want: []string{
			`FILE:2: log.brokers[0]: want a single value, not keys and values: if it is one, quote it, as in ["127.0.0.1:9092"]`,
		}},
		{name: "an alias", yaml: "region: &r eu\n", want: []string{"FILE:1: region: want a single value, not an anchor or alias"}},
		{name: "a peer set twice", yaml: "region: eu\nreplicator:\n  peers:\n    us: a:1\n    us: b:1\n", want: []string{"FILE:5"}},
		{name: "not a number", yaml: "region: eu\npartitions: four\n", want: []string{`FILE:2: partitions: "four" is not a whole number`}},
		{name: "a fraction", yaml: "region: eu\npartitions: 4.5\n", want: []string{`FILE:2: partitions: "4.5" is not a whole number`}},
		{name: "negative", yaml: "region: eu\norigin_epoch: -1\n", want: []string{`FILE:2: origin_epoch: "-1" is not a whole number from 0`}},
		{name: "not a duration", yaml: "region: eu\ndrain: 5\n", want: []string{`FILE:2: drain: "5" is not a duration`}},
		{name: "not a boolean", yaml: "region: eu\nroutes: {tls: maybe}\n", want: []string{`FILE:2: routes.tls: "maybe" is not true or false`}},
		{name: "not a ratio", yaml: "region: eu\ntelemetry: {sample_ratio: .nan}\n", want: []string{`telemetry.sample_ratio: ".nan" is not a number`}},
		{name: "a malformed map", yaml: "region: eu\n", env: []string{"ANTIPODE_REPLICATOR_PEERS=us"}, want: []string{`environment variable ANTIPODE_REPLICATOR_PEERS: replicator.peers: "us" is not of the form key=value`}},

		{name: "no region", yaml: "partitions: 4\n", want: []string{"FILE: region: must be set"}},
		{name: "bad region", yaml: "region: EU\n", want: []string{"FILE:1: region: ", `'E' is not one of a-z, 0-9 and -`}},
		{name: "epoch 0", yaml: "region: eu\norigin_epoch: 0\n", want: []string{"FILE:2: origin_epoch: must be 1 or more"}},
		{name: "bad origin", yaml: "region: eu\norigins: [eu, us.1]\n", want: []string{"FILE:2: origins[1]: ", "us.1"}},
		{name: "origin twice", yaml: "region: eu\norigins:\n  - eu\n  - eu\n", want: []string{"FILE:4: origins[1]: eu is listed twice"}},
		{name: "own origin missing", yaml: "region: eu\norigin_epoch: 2\norigins: [eu, us]\n", want: []string{"FILE:3: origins: does not list the own origin, eu.2"}},
		{name: "no partitions", yaml: "region: eu\npartitions: 0\n", want: []string{"FILE:2: partitions: 0 is not between 1 and 1024"}},
		{name: "bad address", yaml: "region: eu\nlisten: '7400'\n", want: []string{`FILE:2: listen: "7400" is not of the form host:port`}},
		{name: "bad port", yaml: "region: eu\nrpc: :70000\n", want: []string{`FILE:2: rpc: ":70000": the port must be a number up to 65535`}},
		{name: "one address twice", yaml: "region: eu\nadmin: :7401\n", want: []string{"FILE:2: admin: :7401 is the address of rpc too"}},
		{name: "advertise nothing", yaml: "region: eu\nadvertise: 0.0.0.0:7401\n", want: []string{"FILE:2: advertise: ", "needs a host that others can call"}},
		{name: "advertise port 0", yaml: "region: eu\nadvertise: gw:0\n", want: []string{"FILE:2: advertise: ", "port 0 cannot be called"}},
		{name: "bad public url", yaml: "region: eu\npublic_url: gw.example\n", want: []string{"FILE:2: public_url: ", "is not a URL of http or https"}},
		{name: "public url with a query", yaml: "region: eu\npublic_url: https://gw.example/?a=b\n", want: []string{"FILE:2: public_url: ", "must end before ? and #"}},
		{name: "bad web origin", yaml: "region: eu\ngateway: {web_origins: [chat.example]}\n", want: []string{"FILE:2: gateway.web_origins[0]: ", "is not an origin"}},
		{name: "bad proxy", yaml: "region: eu\nipconf: {trusted_proxies: [10.0.0.1]}\n", want: []string{"FILE:2: ipconf.trusted_proxies[0]: ", "is not a network"}},
		{name: "bad broker", yaml: "region: eu\nlog:\n  brokers:\n    - kafka\n", want: []string{`FILE:4: log.brokers[0]: "kafka" is not of the form host:port`}},
		{name: "bad cache", yaml: "region: eu\nroutes: {addrs: [':6379']}\n", want: []string{"FILE:2: routes.addrs[0]: ", "needs a host"}},
		{name: "bad database url", yaml: "region: eu\ntimelines: {urls: ['mysql://a:hunter2@db/x']}\n", want: []string{"FILE:2: timelines.urls[0]: ", "mysql://a:***@db/x", "is not of the form postgres://"}},
		{name: "not a url at all", yaml: "region: eu\ntimelines: {urls: ['postgres://a:hunter2@d b/x']}\n", want: []string{"FILE:2: timelines.urls[0]: is not a URL"}},
		{name: "words that drivers take for a URL", yaml: "region: eu\ntimelines: {urls: ['host=db user=a password=hunter2 dbname=x']}\n", want: []string{"FILE:2: timelines.urls[0]: is not a URL"}},
		{name: "a url without its scheme", yaml: "region: eu\ntimelines: {urls: ['a:hunter2@db/x']}\n", want: []string{"FILE:2: timelines.urls[0]: is not a URL"}},
		{name: "a password in a wrong url's query", yaml: "region: eu\ntimelines: {urls: ['mysql://a@db/x?password=hunter2&sslmode=require']}\n", want: []string{"mysql://a@db/x?password=***&sslmode=require"}},
		{name: "no database", yaml: "region: eu\ntimelines: {urls: ['postgres://a@db']}\n", want: []string{"FILE:2: timelines.urls[0]: ", "names no database"}},
		{name: "bad mechanism", yaml: "region: eu\nlog: {sasl: {mechanism: md5}}\n", want: []string{`FILE:2: log.sasl.mechanism: "md5" is not one of plain, scram-sha-256, scram-sha-512`}},
		{name: "sasl without user", yaml: "region: eu\nlog: {sasl: {mechanism: plain}}\n", want: []string{"log.sasl.user: must be set", "log.sasl.password: must be set, or password_file"}},
		{name: "gathered for less than nothing", yaml: "region: eu\nlog: {gather: -1ms}\n", want: []string{"FILE:2: log.gather: -1ms: must be 0 or more"}},
		{name: "more in sync than there are", yaml: "region: eu\nlog: {replication: 1}\n", want: []string{"FILE:2: log.min_in_sync: 2 is more than log.replication, 1"}},
		{name: "tls that is off", yaml: "region: eu\nlog: {tls: {ca: /dev/null}}\n", want: []string{"log.tls.enabled: must be true"}},
		{name: "half a log certificate", yaml: "region: eu\nlog: {tls: {enabled: true, cert: /dev/null}}\n", want: []string{"FILE:2: log.tls: cert and key go together"}},
		{name: "bad discovery", yaml: "region: eu\ndiscovery: {kind: zookeeper}\n", want: []string{`FILE:2: discovery.kind: "zookeeper" is not one of memory, consul`}},
		{name: "bad consul", yaml: "region: eu\ndiscovery: {address: ''}\n", want: []string{"FILE:2: discovery.address: "}},
		{name: "half a certificate", yaml: "region: eu\ntls: {ca: /dev/null}\n", want: []string{"FILE:2: tls: ca, cert and key go together"}},
		{name: "a file that is not there", yaml: "region: eu\ntls:\n  ca: /nowhere\n  cert: /dev/null\n  key: /dev/null\n", want: []string{"FILE:3: tls.ca: open /nowhere"}},
		{name: "too much leeway", yaml: "region: eu\nauth: {leeway: 1h}\n", want: []string{"FILE:2: auth.leeway: 1h0m0s is not between"}},
		{name: "a key without id", yaml: "region: eu\nauth:\n  keys:\n    - {alg: EdDSA, key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}\n", want: []string{"FILE:4: auth.keys[0].id: must be set"}},
		{name: "one id twice", yaml: "region: eu\nauth:\n  keys:\n    - {id: a, alg: EdDSA, key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}\n    - {id: a, alg: EdDSA, key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}\n", want: []string{`FILE:5: auth.keys[1].id: "a" is the id of two keys`}},
		{name: "bad algorithm", yaml: "region: eu\nauth:\n  keys:\n    - {id: a, alg: none, key: x}\n", want: []string{`FILE:4: auth.keys[0].alg: "none" is not one of EdDSA, HS256`}},
		{name: "no public key", yaml: "region: eu\nauth:\n  keys:\n    - {id: a, alg: EdDSA, key: garbage}\n", want: []string{"FILE:4: auth.keys[0].key: is no public key: want PEM, or base64 of 32 bytes"}},
		{name: "a secret as public key", yaml: "region: eu\nauth:\n  keys:\n    - id: a\n      alg: EdDSA\n      key: |\n        -----BEGIN PRIVATE KEY-----\n        MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n        -----END PRIVATE KEY-----\n", want: []string{`auth.keys[0].key: is PEM of "PRIVATE KEY" and holds no public key`}},
		{name: "no key", yaml: "region: eu\nauth:\n  keys:\n    - {id: a, alg: EdDSA}\n", want: []string{"FILE:4: auth.keys[0].key: must be set, or key_file"}},
		{name: "not base64", yaml: "region: eu\nauth:\n  keys:\n    - {id: a, alg: HS256, key: '!'}\n", want: []string{"FILE:4: auth.keys[0].key: is not base64"}},
		{name: "a short key", yaml: "region: eu\nauth:\n  keys:\n    - {id: a, alg: HS256, key: aHVudGVyMg==}\n", want: []string{"FILE:4: auth.keys[0].key: holds 7 bytes: want at least 32"}},
		{name: "the mask", yaml: "region: eu\nlog: {sasl: {mechanism: plain, user: a, password: '***'}}\n", want: []string{"FILE:2: log.sasl.password: is the mask"}},
		{name: "a secret twice", yaml: "region: eu\nroutes:\n  password: a\n  password_file: /dev/null\n", want: []string{"FILE:3: routes.password: is set here, and routes.password_file is set too (FILE:4)"}},
		{name: "a secret file that is not there", yaml: "region: eu\nroutes: {password_file: /nowhere}\n", want: []string{"FILE:2: routes.password_file: open /nowhere"}},
		{name: "an empty secret file", yaml: "region: eu\nroutes: {password_file: /dev/null}\n", want: []string{"FILE:2: routes.password_file: /dev/null is empty"}},
		{name: "no conns", yaml: "region: eu\ngateway: {max_conns: 0}\n", want: []string{"FILE:2: gateway.max_conns: 0: must be 1 or more"}},
		{name: "no rate", yaml: "region: eu\nimserver: {rate: 0}\n", want: []string{"FILE:2: imserver.rate: 0: must be more than 0"}},
		{name: "no time", yaml: "region: eu\nrouter: {silence: 0s}\n", want: []string{"FILE:2: router.silence: 0s: must be 1ms or more"}},
		{name: "no device", yaml: "region: eu\nrouter: {device_limits: {ios: 0}}\n", want: []string{"FILE:2: router.device_limits.ios: 0: must be 1 or more"}},
		{name: "tiny frames", yaml: "region: eu\ngateway: {max_frame: 10}\n", want: []string{"gateway.max_frame: 10: must be 1024 bytes or more", "gateway.max_text: 8192 does not fit"}},
		{name: "no polls", yaml: "region: eu\ngateway: {poll_hold: 0s, max_polls: 0}\n", want: []string{"FILE:2: gateway.poll_hold: 0s: must be 1ms or more", "gateway.max_polls: 0: must be 1 or more"}},
		{name: "hasty probes", yaml: "region: eu\ngateway: {tcp_keepalive: 1ms, tcp_user_timeout: -1s}\n", want: []string{"FILE:2: gateway.tcp_keepalive: 1ms: must be 0, or 1s or more", "gateway.tcp_user_timeout: -1s: must be 0"}},
		{name: "tiny buffers", yaml: "region: eu\ngateway: {send_buffer: 100, receive_buffer: -1}\n", want: []string{"FILE:2: gateway.send_buffer: 100: must be 0, or 4096 bytes or more", "gateway.receive_buffer: -1: must be 0"}},
		{name: "impatient", yaml: "region: eu\ngateway: {heartbeat: 2m}\n", want: []string{"gateway.idle_timeout: 1m0s is not longer than gateway.heartbeat, 2m0s"}},
		{name: "heartbeats upside down", yaml: "region: eu\nipconf: {policy: {heartbeat_min: 5m}}\n", want: []string{"FILE:2: ipconf.policy.heartbeat_min: 5m0s is longer than heartbeat_max"}},
		{name: "back-off upside down", yaml: "region: eu\nipconf: {policy: {backoff_base: 5m}}\n", want: []string{"FILE:2: ipconf.policy.backoff_base: 5m0s is longer than backoff_cap"}},
		{name: "no jitter", yaml: "region: eu\nipconf: {policy: {backoff_jitter: 0}}\n", want: []string{"FILE:2: ipconf.policy.backoff_jitter: 0 is not above 0 and up to 1"}},
		{name: "bad peer", yaml: "region: eu\norigins: [eu, us]\nreplicator: {peers: {us: nowhere}}\n", want: []string{"FILE:3: replicator.peers.us: ", "is not of the form host:port"}},
		{name: "peer of itself", yaml: "region: eu\nreplicator: {peers: {eu: a:1}}\n", want: []string{"FILE:2: replicator.peers.eu: is this region"}},
		{name: "a peer without a log", yaml: "region: eu\nreplicator: {peers: {us: a:1}}\n", want: []string{"FILE:2: replicator.peers.us: origins lists no log of this region"}},
		{name: "a peer that is no region", yaml: "region: eu\nreplicator: {peers: {US: a:1}}\n", want: []string{"FILE:2: replicator.peers.US: ", "'U' is not one of"}},
		{name: "a cap on no peer", yaml: "region: eu\nreplicator: {caps: [{peer: us, bytes_per_second: 5000}]}\n", want: []string{`replicator.caps[0].peer: "us" is no peer`}},
		{name: "via itself", yaml: "region: eu\norigins: [eu, us]\nreplicator: {peers: {us: a:1}, via: {us: us}}\n", want: []string{"FILE:3: replicator.via.us: is us itself"}},
		{name: "via nobody", yaml: "region: eu\norigins: [eu, us, ap]\nreplicator: {peers: {us: a:1}, via: {ap: sa, eu: us, in: us}}\n", want: []string{`replicator.via.ap: "sa" is no region of replicator.peers`, "replicator.via.eu: is this region", "replicator.via.in: origins lists no log"}},
		{name: "via two", yaml: "region: eu\norigins: [eu, us, ap]\nreplicator: {peers: {us: a:1, ap: b:1}, via: {ap: us, us: ap}}\n", want: []string{`replicator.via.ap: "us" is reached via ap itself`, `replicator.via.us: "ap" is reached via us itself`}},
		{name: "stand-ins nobody knows", yaml: "region: eu\norigins: [eu, us]\nreplicator: {peers: {us: a:1}, stand_ins: [ap, us, us, eu, eu], stand_in_after: 5ms}\n", want: []string{`replicator.stand_ins[0]: "ap" is no region of replicator.peers`, `replicator.stand_ins[2]: "us" is named twice`, `replicator.stand_ins[4]: "eu" is named twice`, "replicator.stand_in_after: 5ms: must be 1s or more"}},
		{name: "a cap at no time", yaml: "region: eu\norigins: [eu, us]\nreplicator: {peers: {us: a:1}, caps: [{peer: us, from: \"8\", bytes_per_second: 5}]}\n", want: []string{`"8" is no time of day: want HH:MM`, "must be 1000 or more"}},
		{name: "an unknown compression", yaml: "region: eu\nreplicator: {compression: gzip}\n", want: []string{"replicator.compression"}},
		{name: "a small window", yaml: "region: eu\nreplicator: {window_bytes: 1}\n", want: []string{"replicator.window_bytes: 1: must be 65536 or more", "replicator.batch_bytes"}},
		{name: "less than no processor", yaml: "region: eu\nreplicator: {processors: -1}\n", want: []string{"FILE:2: replicator.processors: -1: must be 1 or more, or 0 for all there are"}},
		{name: "too many samples", yaml: "region: eu\ntelemetry: {sample_ratio: 2}\n", want: []string{"FILE:2: telemetry.sample_ratio: 2 is not between 0 and 1"}},
		{name: "bad level", yaml: "region: eu\ntelemetry: {log_level: loud}\n", want: []string{`FILE:2: telemetry.log_level: "loud" is not one of debug, info, warn, error`}},
		{name: "wrong by variable", yaml: "region: eu\n", env: []string{"ANTIPODE_PARTITIONS=0"}, want: []string{"environment variable ANTIPODE_PARTITIONS: partitions: 0 is not between"}},
		{name: "wrong by flag", yaml: "region: eu\npartitions: 4\n", flags: map[string]string{"partitions": "0"}, want: []string{"flag partitions: partitions: 0 is not between"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.yaml)
			got, err := Load(path, c.env, c.flags)
			if err == nil {
				t.Fatalf("it was taken: %+v", got)
			}
			for _, want := range c.want {
				if want = strings.ReplaceAll(want, "FILE", path); !strings.Contains(err.Error(), want) {
					t.Errorf("the error\n%v\ndoes not say\n%s", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
	if _, err := Load("/nowhere/eu.yaml", nil, nil); err == nil || !strings.Contains(err.Error(), "/nowhere/eu.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load("", nil, nil); err == nil || !strings.Contains(err.Error(), "no file given by --config or ANTIPODE_CONFIG: region: must be set") {
		t.Errorf("nothing at all: %v", err)
	}
	if c, err := Load("", []string{"ANTIPODE_REGION=eu"}, nil); err != nil || len(c.Origins) != 1 || c.Origins[0] != "eu" {
		t.Errorf("a region alone: %+v, %v", c, err)
	}
	shared := "origins: [eu, us, ap]\nreplicator: {peers: {us: a:1, ap: b:1}, stand_ins: [eu, us, ap]}\n" // in eu, us and ap alike
	if c, err := Load(write(t, "region: eu\n"+shared), nil, nil); err != nil {
		t.Errorf("a region that is one of the stand-ins itself: %+v, %v", c, err)
	}
	if c, err := Load(write(t, "# nothing but a comment\n"), []string{"ANTIPODE_REGION=eu"}, nil); err != nil {
		t.Errorf("an empty file: %+v, %v", c, err)
	}
}

func TestCheckFor(t *testing.T) {
	own := filepath.Join(t.TempDir(), "own")
	pair(t, own, time.Now().Add(time.Hour))
	c, err := Load(write(t, "region: eu\norigins: [eu, us, ap]\nreplicator: {peers: {us: a:1}}\n"+
		fmt.Sprintf("tls: {ca: %[1]s.pem, cert: %[1]s.pem, key: %[1]s-key.pem}\n", own)), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	bare := Defaults()
	bare.Region, bare.RPC, bare.Discovery.Kind = "eu", "", "memory"
	for _, want := range []string{"tls.cert: must be set", "rpc: must be set", "discovery.kind: must be consul"} {
		if err := CheckFor(bare, "ipconf"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	for service, want := range map[string][]string{
		"ipconf":     nil,
		"gateway":    {"for gateway: auth.keys: must be set"},
		"router":     {"log.brokers: must be set", "routes.addrs: must be set"},
		"imserver":   {"log.brokers: must be set", "timelines.urls: must be set"},
		"replicator": {"log.brokers: must be set", "replicator.peers.ap: must be set"},
		"kafka":      {`"kafka" is no service`},
	} {
		err := CheckFor(c, service)
		if len(want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", service, err)
			}
			continue
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %s", service, err, w)
			}
		}
		if err != nil && strings.Contains(err.Error(), "peers.us") {
			t.Errorf("%s: a peer that is set is missed: %v", service, err)
		}
	}
}

// TestSecretsStaySecret prints a configuration in every way there is.
func TestSecretsStaySecret(t *testing.T) {
	file := write(t, "hunter2\n")
	c, err := Load(write(t, whole), []string{"ANTIPODE_ROUTES_PASSWORD_FILE=" + file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Routes.Password.Reveal(); got != "hunter2" {
		t.Errorf("the secret of a file is %q", got)
	}
	var out bytes.Buffer
	if err := Print(&out, c); err != nil {
		t.Fatal(err)
	}
	printed := out.String()
	if n := strings.Count(printed, ` password: "***"`); n != 2 { // log.sasl and timelines: that of routes came from a file
		t.Errorf("print shows %d masked passwords:\n%s", n, printed)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		for _, v := range []any{c, *c, c.Log.SASL, c.Timelines, c.Log.SASL.Password, c.Timelines.URLs[0]} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "config", c, "secret", c.Log.SASL.Password, "urls", c.Timelines.URLs, "url", c.Timelines.URLs[0])
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "config", *c, "secret", c.Log.SASL.Password)
	if err := json.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"hunter2", secret, fmt.Sprintf("%x", "hunter2")} {
		if i := strings.Index(out.String(), s); i >= 0 {
			t.Errorf("a secret is shown: …%s", out.String()[max(0, i-80):i+len(s)])
		}
	}
	for _, want := range []string{`password: "***"`, "postgres://antipode:***@db:5432/eu", "password_file: " + file, "heartbeat: 1m30s", "us: replicator.us.example:7401", "rpc: :7401"} {
		if !strings.Contains(printed, want) {
			t.Errorf("print lacks %s:\n%s", want, printed)
		}
	}
}

// TestPrintIsRead: what print shows is a configuration again, once its secrets are filled in.
func TestPrintIsRead(t *testing.T) {
	c, err := Load(write(t, whole), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Print(&out, c); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(out.String(), `"***"`, `"`+secret+`"`)
	again, err := Load(write(t, text), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out2 bytes.Buffer
	if err := Print(&out2, again); err != nil {
		t.Fatal(err)
	}
	if out2.String() != out.String() {
		t.Errorf("printed, read and printed again:\n%s\nwas\n%s", out2.String(), out.String())
	}
	if again.Log.SASL.Password != secret || again.Gateway.Heartbeat != 90*time.Second {
		t.Errorf("read again: %+v", again)
	}
}

// The pair that clients are shown is read as a gateway reads it.
func TestClientTLS(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	pair(t, at("good"), time.Now().Add(time.Hour))
	pair(t, at("over"), time.Now().Add(-time.Minute))
	for _, c := range []struct{ cert, key, url, want string }{
		{"good", "good", "https://eu.example", ""},
		{"good", "", "https://eu.example", "gateway.tls: cert and key go together"},
		{"good", "over", "https://eu.example", "are no pair: tls: private key does not match public key"},
		{"good", "none", "https://eu.example", "no such file"},
		{"over", "over", "https://eu.example", "gateway.tls.cert: the certificate in " + at("over.pem") + " was good until"},
		{"good", "good", "http://eu.example", "public_url: http://eu.example is not https"},
	} {
		key := ""
		if c.key != "" {
			key = at(c.key + "-key.pem")
		}
		flags := map[string]string{"region": "eu", "public_url": c.url, "gateway.tls.cert": at(c.cert + ".pem"), "gateway.tls.key": key}
		cfg, err := Load(write(t, "region: eu\n"), nil, flags)
		if err == nil {
			err = CheckFor(cfg, "gateway") // misses other things
		}
		switch said := fmt.Sprint(err); {
		case c.want == "" && (strings.Contains(said, "gateway.tls") || strings.Contains(said, "public_url")):
			t.Errorf("%v: %s", c, said)
		case !strings.Contains(said, c.want):
			t.Errorf("%v: %s", c, said)
		}
	}
}

// What says how brokers and the Consul agent are reached is read as a start reads it, and what is wrong is told by key and file.
func TestDialTLS(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	pair(t, at("good"), time.Now().Add(time.Hour))
	pair(t, at("over"), time.Now().Add(-time.Minute))
	ca, cert, key := at("good.pem"), at("good.pem"), at("good-key.pem")
	for _, section := range []string{"log.tls", "discovery.tls"} {
		for _, c := range []struct {
			name, enabled, ca, cert, key string
			want                         []string
		}{
			{"nothing", "false", "", "", "", nil},
			{"everything", "true", ca, cert, key, nil},
			{"the machine's authorities", "true", "", "", "", nil},
			{"off, and yet an authority", "false", ca, "", "", []string{section + ".enabled: must be true"}},
			{"no such authority", "true", at("none.pem"), "", "", []string{section + ".ca: open " + at("none.pem")}},
			{"a key as authority", "true", key, "", "", []string{section + ".ca: " + key + " holds no certificate"}},
			{"a certificate alone", "true", ca, cert, "", []string{section + ": cert and key go together"}},
			{"the key of another", "true", ca, cert, at("over-key.pem"), []string{section + ": " + cert, at("over-key.pem"), "are no pair"}},
			{"a certificate that is over", "true", ca, at("over.pem"), at("over-key.pem"), []string{section + ".cert: the certificate in " + at("over.pem") + " was good until"}},
		} {
			t.Run(section+": "+c.name, func(t *testing.T) {
				flags := map[string]string{"region": "eu"}
				for name, value := range map[string]string{"enabled": c.enabled, "ca": c.ca, "cert": c.cert, "key": c.key} {
					flags[section+"."+name] = value
				}
				_, err := Load("", nil, flags)
				if (err != nil) != (c.want != nil) {
					t.Fatal(err)
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v\nlacks %q", err, want)
					}
				}
				if err != nil && (strings.Count(err.Error(), "\n") > 0 || strings.Contains(err.Error(), "PRIVATE")) {
					t.Errorf("not one line, or it shows a key: %v", err)
				}
			})
		}
	}
	_, err := Load("", nil, map[string]string{"region": "eu", "tls.ca": ca, "tls.cert": cert, "tls.key": at("over-key.pem")})
	if err == nil || !strings.Contains(err.Error(), "tls: "+cert+" and "+at("over-key.pem")+" are no pair") {
		t.Errorf("the own certificate with the key of another: %v", err)
	}
	_, err = Load("", nil, map[string]string{"region": "eu", "discovery.tls.server_name": "server.eu.consul"})
	if err == nil || !strings.Contains(err.Error(), "discovery.tls.enabled: must be true") {
		t.Errorf("a name that nobody is asked for: %v", err)
	}
}

func TestQUIC(t *testing.T) {
	at := filepath.Join(t.TempDir(), "good")
	pair(t, at, time.Now().Add(time.Hour))
	for _, c := range []struct{ quic, cert, handoff, want string }{
		{":7443", at, "", ""},
		{":0", at, "", ""},
		{"7443", at, "", "gateway.quic: \"7443\" is not of the form host:port"},
		{":0", at, "/run/g.sock", "gateway.quic: \":0\": choose a port"},
		{":7443", "", "", "gateway.quic: needs gateway.tls.cert"},
	} {
		flags := map[string]string{"region": "eu", "gateway.quic": c.quic, "gateway.handoff": c.handoff}
		if c.cert != "" {
			flags["gateway.tls.cert"], flags["gateway.tls.key"] = c.cert+".pem", c.cert+"-key.pem"
		}
		_, err := Load(write(t, "region: eu\n"), nil, flags)
		if said := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(said, c.want) {
			t.Errorf("%v: %s", c, said)
		}
	}
}

// pair writes a certificate and its key, good until a time.
func pair(t *testing.T, path string, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-24 * time.Hour), NotAfter: until, DNSNames: []string{"eu.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, "-key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path+name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSchema holds the schema to its own rules.
func TestSchema(t *testing.T) {
	if err := Check(Defaults()); err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "region: must be set") {
		t.Errorf("the defaults lack more than a region: %v", err)
	}
	names := map[string]string{}
	for _, key := range Keys() {
		if other, taken := names[EnvName(key)]; taken {
			t.Errorf("%s and %s share the variable %s", key, other, EnvName(key))
		}
		names[EnvName(key)] = key
	}
	for _, want := range []string{"ANTIPODE_LOG_BROKERS", "ANTIPODE_TELEMETRY_SAMPLE_RATIO", "ANTIPODE_IPCONF_POLICY_RACE_WIDTH"} {
		if names[want] == "" {
			t.Errorf("no key has the variable %s", want)
		}
	}
	if slices.Contains(Keys(), "auth.keys") {
		t.Error("a list of sections cannot be set from text")
	}
	c := Defaults()
	c.Auth.Keys = []AuthKey{{}}
	eachSecret(reflect.ValueOf(c).Elem(), "", func(key string, _, file reflect.Value) {
		if !file.IsValid() {
			t.Errorf("secret %s has no %s_file beside it", key, key)
		}
	})
}
