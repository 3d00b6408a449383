package app

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/wire"
)

// Migrate makes a region's Kafka and PostgreSQL ready for this build: topics for every origin with the settings that the
// invariants need, record 0 in each partition of the own log, and the schema. It may run again at any time, and next to a
// running region.
func Migrate(ctx context.Context, log *kafka.Cluster, site Site) error {
	if err := MigrateLog(ctx, log, site); err != nil {
		return err
	}
	return postgres.Migrate(ctx, site.databases())
}

const (
	// migrateTimeout bounds what is done to one backend: brokers take seconds to make many topics, and a migration may
	// rewrite a table.
	migrateTimeout = 5 * time.Minute
	// deriveTimeout bounds the look through all messages for what was stored raw.
	deriveTimeout = time.Hour
	// settleTimeout is how long a backend that answers may go on failing: a broker that has just made a topic does not know
	// at once that it leads it.
	settleTimeout = 20 * time.Second
)

// migrateAll is Migrate for backends that may still be starting, each of which it names in its errors.
func migrateAll(ctx context.Context, site *Site, until time.Time, log *slog.Logger, progress func(string)) error {
	if len(site.Kafka.Brokers) > 0 {
		at := kafkaAt(site)
		var cluster *kafka.Cluster
		err := at.reach(ctx, site, until, log, func(ctx context.Context) (err error) {
			cluster, err = kafka.Open(ctx, site.Kafka, kafka.Deps{Log: log})
			return err
		})
		if err != nil {
			return err
		}
		defer cluster.Close()
		err = at.persist(ctx, site, time.Now().Add(settleTimeout), migrateTimeout, log, func(ctx context.Context) error {
			return MigrateLog(ctx, cluster, *site)
		})
		if err != nil {
			return err
		}
		progress(fmt.Sprintf("kafka at %s: %d topics of %d partitions are as they must be", at.address, len(site.topics()), site.Partitions))
	}
	if len(site.Timelines.URLs) > 0 {
		at, cfg := postgresAt(site), site.databases()
		if err := at.reach(ctx, site, until, log, func(ctx context.Context) error { return postgres.Answers(ctx, cfg) }); err != nil {
			return err
		}
		err := at.persist(ctx, site, time.Now().Add(settleTimeout), migrateTimeout, log, func(ctx context.Context) error {
			return postgres.Migrate(ctx, cfg)
		})
		if err != nil {
			return err
		}
		progress(fmt.Sprintf("postgres at %s: the schema is this build's", at.address))
		records := 0
		err = at.persist(ctx, site, time.Now().Add(settleTimeout), deriveTimeout, log, func(ctx context.Context) error {
			n, err := postgres.Derive(ctx, cfg)
			records += n
			return err
		})
		if err != nil {
			return err
		}
		if records > 0 {
			progress(fmt.Sprintf("postgres at %s: %d records that an older build had stored raw are derived: restart imservers that run, one by one", at.address, records))
		}
	}
	return nil
}

// MigrateLog makes the topics and names the own log. The name of a partition that has one stays: a log is named once.
func MigrateLog(ctx context.Context, log *kafka.Cluster, site Site) error {
	specs := site.topics()
	if err := log.CreateTopics(ctx, specs); err != nil {
		return err
	}
	if err := log.VerifyTopics(ctx, specs); err != nil {
		return err
	}
	var own []im.Partition
	for _, topic := range im.Topics(site.Origin) {
		for n := range site.Partitions {
			own = append(own, im.Partition{Topic: topic, Number: n})
		}
	}
	bounds, err := log.Bounds(ctx, own)
	if err != nil {
		return err
	}
	now := time.Now()
	id := im.NewUUID(now)
	for _, p := range own {
		if bounds[p].End > 0 {
			continue
		}
		name := im.LogName{Origin: site.Origin, ID: id}
		entry := wire.EncodeLogName(im.KindLog, name, im.StampAt(now))
		first, err := log.Append(ctx, p, []im.Entry{entry})
		if err != nil {
			return fmt.Errorf("name the log: %v: %w", p, err)
		}
		if first != 0 {
			return fmt.Errorf("name the log: %v: record 0 was written by another at the same time: run migrate in one place only, "+
				"delete this origin's topics (they are new) and start again", p)
		}
	}
	return nil
}

// topics lists those of some families, or all, of every origin.
func (s *Site) topics(families ...im.Family) []kafka.TopicSpec {
	var specs []kafka.TopicSpec
	for _, o := range s.Origins {
		for _, topic := range im.Topics(o) {
			family, _, _ := im.ParseTopic(topic)
			if len(families) > 0 && !slices.Contains(families, family) {
				continue
			}
			spec := s.Topic
			spec.Name, spec.Partitions = topic, s.Partitions
			if family == im.FamilyRoute {
				spec.Retention = routeRetention
			}
			specs = append(specs, spec)
		}
	}
	return specs
}

// routeRetention: live routes are claimed anew every hour, so three hours of the log hold every live one.
const routeRetention = 3 * time.Hour
