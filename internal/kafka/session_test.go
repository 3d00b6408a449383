package kafka_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

// follow polls until each partition gave its records 0..each-1, as text, in order.
func follow(t *testing.T, r *kafka.Reader, ps []im.Partition, each int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	next := make(map[im.Partition]int64)
	for got := 0; got < each*len(ps); {
		batches, err := r.Poll(ctx)
		if err != nil {
			t.Fatalf("after %d: %v", got, err)
		}
		for _, b := range batches {
			for _, e := range b.Entries {
				if e.Offset != next[e.Partition] || string(e.Value) != fmt.Sprint(e.Offset) {
					t.Fatalf("%v: got %s at %d, want %d", e.Partition, e.Value, e.Offset, next[e.Partition])
				}
				next[e.Partition]++
				got++
			}
		}
	}
}

// Once a session is open, a request names the partitions that moved and no others.
func TestFetchNamesWhatChanged(t *testing.T) {
	const partitions, each = 32, 3
	fake, c, ps := faulty(t, partitions, nil, kfake.NumBrokers(1))
	var opened, later, named atomic.Int64
	fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		f := req.(*kmsg.FetchRequest)
		count := 0
		for _, topic := range f.Topics {
			count += len(topic.Partitions)
		}
		switch {
		case f.SessionEpoch == 0:
			opened.Add(1)
		case f.SessionEpoch > 0:
			later.Add(1)
			named.Add(int64(count))
		default:
			t.Errorf("a fetch of %d partitions without a session", count)
		}
		return nil, nil, false
	})
	from := make(map[im.Partition]int64)
	for _, p := range ps {
		from[p] = 0
	}
	r := c.NewReader(from)
	defer r.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range each {
			for _, p := range ps {
				if _, err := appendText(t.Context(), c, p, fmt.Sprint(i)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	follow(t, r, ps, each)
	<-done
	if opened.Load() != 1 || later.Load() == 0 || named.Load() > each*partitions {
		t.Errorf("%d sessions opened, then %d requests that name %d partitions for %d records", opened.Load(), later.Load(), named.Load(), each*partitions)
	}
}

// A broker that forgets sessions, or never keeps any, costs the reader nothing but requests.
func TestForgottenSessions(t *testing.T) {
	for name, falsify := range map[string]func(n int64, req *kmsg.FetchRequest) kmsg.Response{
		"not found": func(n int64, req *kmsg.FetchRequest) kmsg.Response {
			return refused(req, n%3 == 0 && req.SessionEpoch > 0, kerr.FetchSessionIDNotFound)
		},
		"wrong epoch": func(n int64, req *kmsg.FetchRequest) kmsg.Response {
			return refused(req, n%3 == 0 && req.SessionEpoch > 0, kerr.InvalidFetchSessionEpoch)
		},
		"no room": func(_ int64, req *kmsg.FetchRequest) kmsg.Response {
			req.SessionID, req.SessionEpoch = 0, -1 // answered with session 0
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			const each = 30
			fake, c, ps := faulty(t, 4, nil)
			var n atomic.Int64
			fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				fake.KeepControl()
				res := falsify(n.Add(1), req.(*kmsg.FetchRequest))
				return res, nil, res != nil
			})
			from := make(map[im.Partition]int64)
			for _, p := range ps {
				from[p] = 0
			}
			r := c.NewReader(from)
			defer r.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range each {
					for _, p := range ps {
						if _, err := appendText(t.Context(), c, p, fmt.Sprint(i)); err != nil {
							t.Error(err)
							return
						}
					}
				}
			}()
			follow(t, r, ps, each)
			<-done
		})
	}
}

func refused(req *kmsg.FetchRequest, now bool, why *kerr.Error) kmsg.Response {
	if !now {
		return nil
	}
	res := req.ResponseKind().(*kmsg.FetchResponse)
	res.ErrorCode = why.Code
	return res
}
