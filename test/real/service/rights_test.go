//go:build real

package service_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/test/real/manual"
)

// kafkaUsers are those whose rights docs/operations.md lists, and one who has none.
var kafkaUsers = []string{"router", "imserver", "replicator", "operator", "nobody"}

// allow gives each user the rights in Kafka that docs/operations.md lists.
func allow(t *testing.T) {
	t.Helper()
	var entries []kafkago.ACLEntry
	for _, command := range manual.Commands(t, manual.Block(t, "### Rights in Kafka", "sh"), "acls") {
		var users []string
		var operations []kafkago.ACLOperationType
		var on []kafkago.ACLEntry
		pattern := kafkago.PatternTypeLiteral
		for i := 1; i < len(command); i++ {
			if command[i] == "--cluster" {
				on = append(on, kafkago.ACLEntry{ResourceType: kafkago.ResourceTypeCluster, ResourceName: "kafka-cluster"})
				continue
			}
			i++
			switch flag, value := command[i-1], command[i]; flag {
			case "--allow-principal":
				users = append(users, value)
			case "--operation":
				var operation kafkago.ACLOperationType
				if err := operation.UnmarshalText([]byte(value)); err != nil {
					t.Fatal(err)
				}
				operations = append(operations, operation)
			case "--topic":
				on = append(on, kafkago.ACLEntry{ResourceType: kafkago.ResourceTypeTopic, ResourceName: value})
			case "--resource-pattern-type":
				if value != "prefixed" {
					t.Fatalf("%q", command)
				}
				pattern = kafkago.PatternTypePrefixed
			default:
				t.Fatalf("%s of %q is not known here", flag, command)
			}
		}
		for _, entry := range on {
			for _, user := range users {
				for _, operation := range operations {
					entry.ResourcePatternType, entry.Principal, entry.Operation = pattern, user, operation
					entry.Host, entry.PermissionType = "*", kafkago.ACLPermissionTypeAllow
					entries = append(entries, entry)
				}
			}
		}
	}
	client := &kafkago.Client{Addr: kafkago.TCP(world.kafka.Addr()), Timeout: patience}
	res, err := client.CreateACLs(t.Context(), &kafkago.CreateACLsRequest{ACLs: entries})
	if err == nil {
		err = errors.Join(res.Errors...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// as is how a user reaches Kafka.
func as(t *testing.T, user string) kafka.Config {
	t.Helper()
	text, err := os.ReadFile(world.env.Dir("kafka.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatal("no certificate")
	}
	return kafka.Config{
		Brokers: []string{world.kafka.SecureAddr()}, TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		SASL: kafka.SASL{Mechanism: "scram-sha-512", User: user, Password: saslWord},
	}
}

// TestRightsInKafka: with the rights that docs/operations.md lists each user can do all that its service does on its topics,
// and nothing on those of others.
func TestRightsInKafka(t *testing.T) {
	allow(t)
	for _, c := range []struct {
		user     string
		families []string
		operator bool
	}{
		{"router", []string{"route."}, false},
		{"imserver", []string{"msg.", "read."}, false},
		{"replicator", []string{"msg.", "read.", "route."}, false},
		{"operator", []string{"msg.", "read.", "route."}, true},
		{"nobody", nil, false},
	} {
		t.Run(c.user, func(t *testing.T) {
			log, err := kafka.Open(t.Context(), as(t, c.user), kafka.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			name := "za-" + c.user
			for _, family := range []string{"msg.", "read.", "route.", "other."} {
				spec := kafka.TopicSpec{Name: family + name, Partitions: 1, Replication: 1, MinISR: 1, Retention: time.Hour}
				p := im.Partition{Topic: spec.Name}
				use := func() error {
					if err := log.CreateTopics(t.Context(), []kafka.TopicSpec{spec}); err != nil {
						return err
					}
					if err := log.VerifyTopics(t.Context(), []kafka.TopicSpec{spec}); err != nil {
						return err
					}
					at, err := log.Append(t.Context(), p, []im.Entry{{Key: []byte("k"), Value: []byte("v")}})
					if err != nil {
						return err
					}
					if _, err := log.Bounds(t.Context(), []im.Partition{p}); err != nil {
						return err
					}
					entries, err := log.Read(t.Context(), p, at, 1<<20)
					if err == nil && len(entries) != 1 {
						err = fmt.Errorf("%d entries are read", len(entries))
					}
					return err
				}
				allowed := strings.Contains(strings.Join(c.families, " "), family)
				err := use()
				if problem := explained(err); allowed != (err == nil) || err != nil && !strings.Contains(problem, "authorization failed") {
					t.Errorf("%s: allowed %v, and it is told %q", spec.Name, allowed, problem)
				}
				if !allowed {
					continue
				}
				keep, remove := log.KeepTopics(t.Context(), []string{spec.Name}), log.DeleteTopics(t.Context(), []string{spec.Name})
				if c.operator != (keep == nil) || c.operator != (remove == nil) {
					t.Errorf("%s is to be kept: %v, and to be deleted: %v", spec.Name, keep, remove)
				}
			}
		})
	}
}

// explained is what people are told of an error.
func explained(err error) string {
	if err == nil {
		return ""
	}
	problem, remedy, _ := kafka.Explain(err)
	return problem + ": " + remedy
}

// TestSecureKafka: services that are told of brokers with TLS and passwords in their files, and have the rights that
// docs/operations.md lists, work over them, and so does migrate.
func TestSecureKafka(t *testing.T) {
	allow(t)
	over := func(user string) settings {
		return settings{"log.brokers": world.kafka.SecureAddr(), inFile: fmt.Sprintf(`
log:
  sasl: {mechanism: scram-sha-512, user: %s, password: %s}
  tls: {enabled: true, ca: %s}
`, user, saslWord, world.env.Dir("kafka.pem"))}
	}
	url := database(t)
	by := func(user string) settings {
		set := over(user)
		set["timelines.urls"] = url
		return set
	}
	migrate(t, by("operator"))
	owners := []*service{start(t, "router", "router-1", by("router")), start(t, "imserver", "imserver-1", by("imserver"))}
	for _, s := range append(owners, start(t, "replicator", "replicator-1", by("replicator"))) {
		if s.kind != "replicator" {
			share(t, s)
		}
		eventually(t, s.kind+" is ready", func() error {
			r, err := s.ready()
			if err == nil && !r.OK {
				err = fmt.Errorf("%v", r.Checks)
			}
			return err
		})
	}
}
