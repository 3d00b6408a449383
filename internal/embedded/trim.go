package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Trim removes a partition's records below an offset, as retention would when they are old enough.
func (k *Kafka) Trim(ctx context.Context, topic string, partition int, below int64) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(k.addr), kgo.DialTimeout(5*time.Second))
	if err != nil {
		return fmt.Errorf("embedded kafka: %w", err)
	}
	defer client.Close()
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = 5000
	request.Topics = []kmsg.DeleteRecordsRequestTopic{{
		Topic:      topic,
		Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: int32(partition), Offset: below}},
	}}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("embedded kafka: trim %s/%d: %w", topic, partition, err)
	}
	for _, t := range response.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return fmt.Errorf("embedded kafka: trim %s/%d below %d: error %d", topic, partition, below, p.ErrorCode)
			}
		}
	}
	return nil
}
