package kafka

import (
	"errors"
	"fmt"

	"github.com/antipode-im/antipode/im"
)

// ErrClosed is returned by everything on a Cluster or Reader that was closed.
var ErrClosed = errors.New("kafka: closed")

// RangeError says that a reader wanted an offset that the partition does not hold: below Start, retention removed it;
// above End, the log is not the one that was read before. The reader has dropped the partition.
type RangeError struct {
	Partition im.Partition
	Wanted    int64
	Bounds    im.Bounds
}

// Error names partition, wanted offset and bounds.
func (e *RangeError) Error() string {
	what := "retention removed what was not read yet"
	if e.Wanted > e.Bounds.End {
		what = "the log is shorter than what was read before: it was truncated or recreated"
	}
	return fmt.Sprintf("kafka: %v: offset %d is outside %d..%d: %s", e.Partition, e.Wanted, e.Bounds.Start, e.Bounds.End, what)
}

// SettingError says that a topic is not set up in the way the invariants need.
type SettingError struct {
	Topic   string
	Setting string
	Found   string
	Wanted  string
	Remedy  string
}

// Error names topic, setting, both values and what to do.
func (e *SettingError) Error() string {
	return fmt.Sprintf("kafka: topic %s: %s is %s, want %s: %s", e.Topic, e.Setting, e.Found, e.Wanted, e.Remedy)
}

// unavailable is an error that may be retried, with its cause.
type unavailable struct {
	im    *im.Error
	cause error
}

func (e *unavailable) Error() string { return e.im.Error() }

func (e *unavailable) Unwrap() []error {
	if e.cause == nil {
		return []error{e.im}
	}
	return []error{e.im, e.cause}
}
