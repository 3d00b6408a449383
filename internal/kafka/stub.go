package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/antipode-im/antipode/im"
)

type Cluster struct{}
type Reader struct{}
type TopicSpec struct {
	Name        string
	Partitions  int
	Replication int
	MinISR      int
	Retention   time.Duration
}

var errStub = errors.New("kafka: not built yet")

func Open(ctx context.Context, cfg Config, deps Deps) (*Cluster, error) { return nil, errStub }
func (c *Cluster) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	return 0, errStub
}
func (c *Cluster) Bounds(ctx context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error) {
	return nil, errStub
}
func (c *Cluster) Read(ctx context.Context, p im.Partition, from int64, maxBytes int) ([]im.Entry, error) {
	return nil, errStub
}
func (c *Cluster) NewReader(from map[im.Partition]int64) *Reader         { return nil }
func (r *Reader) Poll(ctx context.Context) ([]im.Batch, error)           { return nil, errStub }
func (r *Reader) Seek(p im.Partition, offset int64)                      {}
func (r *Reader) Drop(p im.Partition)                                    {}
func (r *Reader) Close()                                                 {}
func (c *Cluster) CreateTopics(ctx context.Context, s []TopicSpec) error { return errStub }
func (c *Cluster) VerifyTopics(ctx context.Context, s []TopicSpec) error { return errStub }
func (c *Cluster) Ping(ctx context.Context) error                        { return errStub }
func (c *Cluster) Close()                                                {}
