package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Config says which Kafka, and within which bounds to use it. Zero values take the defaults named beside them.
type Config struct {
	Brokers  []string    // host:port of some brokers, at least one; the others are learnt from them
	ClientID string      // shown in the brokers' logs and quotas; "antipode"
	TLS      *tls.Config // nil for plain text
	SASL     SASL        // no mechanism: no authentication

	Linger         time.Duration // appends are gathered this long while a request to the leader is under way; 2 ms
	Gather         time.Duration // and this long while none is: for callers that append to many partitions at a time; 0
	AppendTimeout  time.Duration // an append that has not been acknowledged by then fails, retries included; 10 s
	RequestTimeout time.Duration // one request, as told to the broker; 5 s
	FetchWait      time.Duration // how long a broker holds a fetch that finds nothing; 500 ms
	FetchPace      time.Duration // between the beginnings of a reader's fetches, while records keep coming; 3 ms
	DialTimeout    time.Duration // one connection, TLS and SASL included; 3 s

	QueueBytes          int // of all appends not yet acknowledged; more are refused with CodeOverloaded; 64 MiB
	BatchBytes          int // of one batch, and so of one Append; must not be above the topics' max.message.bytes; 900 KiB
	FetchBytes          int // of one fetch response; 4 MiB
	PartitionFetchBytes int // of one partition in it; 512 KiB

	// Embedded accepts settings that an embedded broker does not have (see VerifyTopics). Never set it for a real Kafka.
	Embedded bool
}

// SASL says how to authenticate.
type SASL struct {
	Mechanism string // "", "plain", "scram-sha-256" or "scram-sha-512"
	User      string
	Password  string
}

// LogValue keeps the password out of logs.
func (s SASL) LogValue() slog.Value {
	return slog.GroupValue(slog.String("mechanism", s.Mechanism), slog.String("user", s.User))
}

// String keeps the password out of messages.
func (s SASL) String() string { return s.Mechanism + ":" + s.User }

// Deps are what a Cluster needs from its process.
type Deps struct {
	Log  *slog.Logger                                             // nil discards
	Dial func(ctx context.Context, addr string) (net.Conn, error) // connects to a broker; nil: by TCP
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Brokers) == 0 {
		return c, errors.New("kafka: no brokers given: want at least one host:port")
	}
	for _, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			return c, fmt.Errorf("kafka: broker %q: want host:port", b)
		}
	}
	or(&c.ClientID, "antipode")
	or(&c.Linger, 2*time.Millisecond)
	or(&c.AppendTimeout, 10*time.Second)
	or(&c.RequestTimeout, 5*time.Second)
	or(&c.FetchWait, 500*time.Millisecond)
	or(&c.FetchPace, 3*time.Millisecond)
	or(&c.DialTimeout, 3*time.Second)
	or(&c.QueueBytes, 64<<20)
	or(&c.BatchBytes, 900<<10)
	or(&c.FetchBytes, 4<<20)
	or(&c.PartitionFetchBytes, 512<<10)
	switch {
	case c.Linger < 0 || c.Gather < 0 || c.AppendTimeout < 0 || c.RequestTimeout < 0 || c.FetchWait < 0 || c.FetchPace < 0 || c.DialTimeout < 0:
		return c, errors.New("kafka: a negative duration in the configuration")
	case c.QueueBytes < c.BatchBytes:
		return c, fmt.Errorf("kafka: queue of %d bytes is smaller than one batch of %d", c.QueueBytes, c.BatchBytes)
	case c.BatchBytes < 0 || c.FetchBytes < 0 || c.PartitionFetchBytes < 0:
		return c, errors.New("kafka: a negative size in the configuration")
	}
	return c, nil
}

func or[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "":
		return nil, nil
	case "plain":
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.User, s.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.User, s.Password)
	}
	return nil, fmt.Errorf("kafka: SASL mechanism %q: want plain, scram-sha-256 or scram-sha-512", s.Mechanism)
}
