package imserver

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/wire"
)

// mark moves the caller's cursors. The answer says what was taken: what the region has not applied is cut off, so that
// no forged cursor can pass what exists.
func (s *Server) mark(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.MarkRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	conversation, err := accept.Conversation(request.Conversation, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	delivered, err := im.ParseCursor(request.Delivered)
	if err != nil {
		return im.CallResult{}, err
	}
	read, err := im.ParseCursor(request.Read)
	if err != nil {
		return im.CallResult{}, err
	}
	if _, _, _, err := s.present(ctx, conversation, c.UID); err != nil {
		return im.CallResult{}, err
	}
	heads, err := s.heads(ctx, conversation, delivered.Merge(read))
	if err != nil {
		return im.CallResult{}, unavailable(s, "how far the conversation is cannot be read", err)
	}
	delivered, read = delivered.Cut(heads), read.Cut(heads)
	if len(delivered)+len(read) > 0 && !s.marks.Add(accept.MarkKey{Conversation: conversation, UID: c.UID}, delivered, read) {
		return im.CallResult{}, im.Errorf(im.CodeOverloaded, "too many cursors are waiting to be written")
	}
	return answer(wire.Marshal(&wire.MarkResponse{Delivered: delivered.String(), Read: read.String()}))
}

// keepMarks writes what is due until ctx ends, and then, unless it was killed, everything that is held.
func (s *Server) keepMarks(ctx, hard context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		ready, next := s.marks.Take(s.deps.Now(), s.cfg.MarkInterval, false)
		s.writeMarks(hard, ready)
		if len(ready) > 0 {
			continue // writing took time
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
		case <-s.marks.Fresh():
		case <-timer.C:
		}
	}
	if !killed(ctx) {
		ready, _ := s.marks.Take(s.deps.Now(), s.cfg.MarkInterval, true)
		s.writeMarks(hard, ready)
	}
}

// writeMarks appends cursors, partition by partition at once. What the log does not take is held for another second.
func (s *Server) writeMarks(ctx context.Context, ready []wire.Cursors) {
	if len(ready) == 0 {
		return
	}
	parts := map[im.Partition][]wire.Cursors{}
	for _, c := range ready {
		p := im.Partition{Topic: im.ReadTopic(s.cfg.Origin), Number: s.number(c.Conversation)}
		parts[p] = append(parts[p], c)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AppendTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for p, cursors := range parts {
		wg.Go(func() {
			if err := s.appendCursors(ctx, p, cursors); err != nil {
				s.deps.Logger.Warn("cursors were not written and are held", "partition", p, "cursors", len(cursors), "error", err)
				for _, c := range cursors {
					s.marks.Add(accept.MarkKey{Conversation: c.Conversation, UID: c.UID}, c.Delivered, c.Read)
				}
			}
		})
	}
	wg.Wait()
}

func (s *Server) appendCursors(ctx context.Context, p im.Partition, cursors []wire.Cursors) error {
	entries := make([]im.Entry, len(cursors))
	for i, c := range cursors {
		stamp, err := s.stamp(0)
		if err != nil {
			return err
		}
		entries[i] = wire.EncodeCursors(c, s.cfg.Origin, stamp)
	}
	_, err := s.write(ctx, p, entries)
	return err
}
