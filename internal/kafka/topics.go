package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/deletetopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/incrementalalterconfigs"

	"github.com/antipode-im/antipode/im"
)

// adminTimeout is for what happens once, at set-up: brokers take seconds to create many partitions.
const adminTimeout = 30 * time.Second

// TopicSpec is what a topic must be.
type TopicSpec struct {
	Name        string
	Partitions  int
	Replication int           // 3; 1 on one broker
	MinISR      int           // 2; 1 on one broker
	Retention   time.Duration // longer than the longest outage to survive; 0 keeps everything
}

// settings are the topic's settings that the invariants need, as they are set at creation.
func (s TopicSpec) settings() []createtopics.RequestConfig {
	retention := int64(-1)
	if s.Retention > 0 {
		retention = s.Retention.Milliseconds()
	}
	return []createtopics.RequestConfig{
		{Name: "cleanup.policy", Value: "delete"},
		{Name: "message.timestamp.type", Value: "LogAppendTime"},
		{Name: "min.insync.replicas", Value: strconv.Itoa(s.MinISR)},
		{Name: "retention.bytes", Value: "-1"},
		{Name: "retention.ms", Value: strconv.FormatInt(retention, 10)},
		{Name: "unclean.leader.election.enable", Value: "false"},
	}
}

// CreateTopics creates those topics that do not exist, and returns when all of them have leaders. It does not change
// topics that exist: VerifyTopics tells whether they are as they must be.
func (c *Cluster) CreateTopics(ctx context.Context, specs []TopicSpec) error {
	req := &createtopics.Request{TimeoutMs: int32(c.cfg.RequestTimeout.Milliseconds())}
	for _, s := range specs {
		if s.Name == "" || s.Partitions <= 0 || s.Replication <= 0 || s.MinISR <= 0 || s.MinISR > s.Replication {
			return fmt.Errorf("kafka: topic %q: want a name, partitions, and 0 < min.insync.replicas <= replication, got %d, %d, %d", s.Name, s.Partitions, s.MinISR, s.Replication)
		}
		req.Topics = append(req.Topics, createtopics.RequestTopic{
			Name: s.Name, NumPartitions: int32(s.Partitions), ReplicationFactor: int16(s.Replication), Configs: s.settings(),
		})
	}
	if len(specs) == 0 {
		return nil
	}
	return c.retry(ctx, adminTimeout, func(ctx context.Context) error {
		res, err := c.roundTrip(ctx, 0, req)
		if err != nil {
			return fmt.Errorf("kafka: create topics: %w", err)
		}
		for _, t := range res.(*createtopics.Response).Topics {
			err := codeError(t.ErrorCode, t.ErrorMessage)
			if err != nil && !errors.Is(err, kafkago.TopicAlreadyExists) {
				return fmt.Errorf("kafka: create topic %s: %w: %s", t.Name, err, remedy(err))
			}
		}
		if err := c.lay.load(ctx); err != nil {
			return fmt.Errorf("kafka: create topics: learn their leaders: %w", err)
		}
		lay := c.lay.layout()
		for _, s := range specs {
			for n := range lay.topics[s.Name].partitions {
				if _, err := lay.leader(im.Partition{Topic: s.Name, Number: n}); err != nil {
					return fmt.Errorf("kafka: create topic %s: partition %d: %w", s.Name, n, err)
				}
			}
			if lay.topics[s.Name].partitions == 0 {
				return fmt.Errorf("kafka: create topic %s: %w", s.Name, kafkago.LeaderNotAvailable)
			}
		}
		return nil
	})
}

// VerifyTopics returns every setting that would break an invariant, joined, each a *SettingError.
//
// With Config.Embedded a setting that the broker does not tell is taken as right, and so is auto-creation. A real Kafka
// that does not tell one is refused.
func (c *Cluster) VerifyTopics(ctx context.Context, specs []TopicSpec) error {
	if len(specs) == 0 {
		return nil
	}
	var (
		found map[string]map[string]string
		lay   *layout
	)
	err := c.retry(ctx, adminTimeout, func(ctx context.Context) (err error) {
		if err := c.lay.load(ctx); err != nil {
			return fmt.Errorf("kafka: verify topics: %w", err)
		}
		lay = c.lay.layout()
		found, err = c.describe(ctx, specs, lay)
		return err
	})
	if err != nil {
		return err
	}
	var problems []error
	for _, s := range specs {
		problems = append(problems, c.verify(s, lay.topics[s.Name], found[s.Name])...)
	}
	if !c.cfg.Embedded {
		for id := range lay.brokers {
			name := strconv.Itoa(int(id))
			if v := found[brokerResource+name]["auto.create.topics.enable"]; v != "false" {
				problems = append(problems, &SettingError{
					"(all)", "auto.create.topics.enable of " + lay.broker(id), show(v), "false",
					"set it in that broker's server.properties and restart it: a mistyped name would otherwise become a topic",
				})
			}
		}
	}
	return errors.Join(problems...)
}

func (c *Cluster) verify(s TopicSpec, has topicLayout, settings map[string]string) (problems []error) {
	wrong := func(setting, found, wanted, remedy string) {
		problems = append(problems, &SettingError{s.Name, setting, found, wanted, remedy})
	}
	if has.partitions == 0 {
		remedy := "run: antipode migrate"
		if user := c.cfg.SASL.User; user != "" { // Kafka does not say that there is what one may not see
			remedy += ", or give " + user + " the rights that docs/operations.md lists for it"
		}
		wrong("the topic", "missing", "present", remedy)
		return problems
	}
	if has.partitions != s.Partitions {
		wrong("partitions", strconv.Itoa(has.partitions), strconv.Itoa(s.Partitions),
			"set partitions to what the topic has: it changes only with a new origin epoch")
	}
	if has.replication < s.Replication {
		wrong("replication", strconv.Itoa(has.replication), strconv.Itoa(s.Replication)+" or more",
			"give its partitions more replicas with kafka-reassign-partitions, or configure log.replication")
	}
	value := func(name string) (string, bool) {
		v, ok := settings[name]
		return v, ok || !c.cfg.Embedded
	}
	alter := func(name, value string) string {
		return fmt.Sprintf("run: kafka-configs --bootstrap-server %s --alter --topic %s --add-config %s=%s", c.cfg.Brokers[0], s.Name, name, value)
	}
	exact := func(name, want string) {
		if v, told := value(name); told && v != want {
			wrong(name, show(v), want, alter(name, want))
		}
	}
	least := func(name string, want int64, unlimited bool) {
		v, told := value(name)
		if !told {
			return
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil && (n >= want && want >= 0 || unlimited && n == -1) {
			return
		}
		text := strconv.FormatInt(want, 10)
		if want >= 0 {
			text += " or more"
		}
		wrong(name, show(v), text, alter(name, strconv.FormatInt(want, 10)))
	}
	exact("cleanup.policy", "delete")
	exact("message.timestamp.type", "LogAppendTime")
	exact("unclean.leader.election.enable", "false")
	exact("retention.bytes", "-1")
	least("min.insync.replicas", int64(s.MinISR), false)
	if s.Retention > 0 {
		least("retention.ms", s.Retention.Milliseconds(), true)
	} else {
		least("retention.ms", -1, true)
	}
	least("max.message.bytes", int64(c.cfg.BatchBytes), false)
	return problems
}

func show(v string) string {
	if v == "" {
		return "not told"
	}
	return v
}

// Kinds of resources that have settings.
const (
	topicKind  = 2
	brokerKind = 4
	// brokerResource goes before a broker's id in describe's answer; no topic's name holds a space.
	brokerResource = "broker "
)

// topicSettings are those that matter here, of some thirty that a topic has.
var topicSettings = []string{
	"cleanup.policy", "max.message.bytes", "message.timestamp.type", "min.insync.replicas", "retention.bytes", "retention.ms",
	"unclean.leader.election.enable",
}

// describe returns these settings of topics, and those of brokers that matter.
func (c *Cluster) describe(ctx context.Context, specs []TopicSpec, lay *layout) (map[string]map[string]string, error) {
	req := &describeconfigs.Request{}
	for _, s := range specs {
		if _, ok := lay.topics[s.Name]; ok {
			req.Resources = append(req.Resources, describeconfigs.RequestResource{ResourceType: topicKind, ResourceName: s.Name, ConfigNames: topicSettings})
		}
	}
	if !c.cfg.Embedded {
		for id := range lay.brokers {
			req.Resources = append(req.Resources, describeconfigs.RequestResource{
				ResourceType: brokerKind, ResourceName: strconv.Itoa(int(id)), ConfigNames: []string{"auto.create.topics.enable"},
			})
		}
	}
	found := make(map[string]map[string]string)
	if len(req.Resources) == 0 {
		return found, nil
	}
	res, err := c.roundTrip(ctx, 0, req)
	if err != nil {
		return nil, fmt.Errorf("kafka: describe topics: %w", err)
	}
	for _, r := range res.(*describeconfigs.Response).Resources {
		name := r.ResourceName
		if r.ResourceType == brokerKind {
			name = brokerResource + name
		}
		if err := codeError(r.ErrorCode, r.ErrorMessage); err != nil {
			return nil, fmt.Errorf("kafka: describe %s: %w: %s", name, err, remedy(err))
		}
		settings := make(map[string]string, len(r.ConfigEntries))
		for _, e := range r.ConfigEntries {
			settings[e.ConfigName] = e.ConfigValue
		}
		found[name] = settings
	}
	return found, nil
}

// KeepTopics has topics keep all that they hold, whatever they were created with. Those that do already need no right to be
// changed.
func (c *Cluster) KeepTopics(ctx context.Context, names []string) error {
	const setting, forever = "retention.ms", "-1"
	return c.retry(ctx, adminTimeout, func(ctx context.Context) error {
		if err := c.lay.load(ctx); err != nil {
			return fmt.Errorf("kafka: keep topics: %w", err)
		}
		lay := c.lay.layout()
		specs := make([]TopicSpec, len(names))
		for i, name := range names {
			specs[i].Name = name
			if lay.topics[name].partitions == 0 {
				return fmt.Errorf("kafka: keep topic %s: %w: %s", name, kafkago.UnknownTopicOrPartition, remedy(kafkago.UnknownTopicOrPartition))
			}
		}
		found, err := c.describe(ctx, specs, lay)
		if err != nil {
			return err
		}
		req := &incrementalalterconfigs.Request{}
		for _, name := range names {
			if found[name][setting] != forever {
				req.Resources = append(req.Resources, incrementalalterconfigs.RequestResource{
					ResourceType: topicKind, ResourceName: name,
					Configs: []incrementalalterconfigs.RequestConfig{{Name: setting, Value: forever}}, // operation 0: set
				})
			}
		}
		if len(req.Resources) == 0 {
			return nil
		}
		res, err := c.roundTrip(ctx, 0, req)
		if err != nil {
			return fmt.Errorf("kafka: keep topics: %w", err)
		}
		for _, t := range res.(*incrementalalterconfigs.Response).Responses {
			if err := codeError(t.ErrorCode, t.ErrorMessage); err != nil {
				return fmt.Errorf("kafka: keep topic %s: %w: %s; or run: kafka-configs --bootstrap-server %s --alter --topic %s --add-config %s=%s",
					t.ResourceName, err, remedy(err), c.cfg.Brokers[0], t.ResourceName, setting, forever)
			}
		}
		return nil
	})
}

// DeleteTopics deletes topics, those that do not exist included, and returns when the brokers no longer name them.
func (c *Cluster) DeleteTopics(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	req := &deletetopics.Request{TopicNames: names, TimeoutMs: int32(c.cfg.RequestTimeout.Milliseconds())}
	return c.retry(ctx, adminTimeout, func(ctx context.Context) error {
		res, err := c.roundTrip(ctx, 0, req)
		if err != nil {
			return fmt.Errorf("kafka: delete topics: %w", err)
		}
		for _, t := range res.(*deletetopics.Response).Responses {
			if err := codeError(t.ErrorCode, ""); err != nil && !errors.Is(err, kafkago.UnknownTopicOrPartition) {
				return fmt.Errorf("kafka: delete topic %s: %w: %s", t.Name, err, remedy(err))
			}
		}
		if err := c.lay.load(ctx); err != nil {
			return fmt.Errorf("kafka: delete topics: %w", err)
		}
		lay := c.lay.layout()
		for _, name := range names {
			if lay.topics[name].partitions > 0 {
				return fmt.Errorf("kafka: delete topic %s: %w", name, kafkago.LeaderNotAvailable) // on its way: ask again
			}
		}
		return nil
	})
}
