package replicator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// line is an open stream to a sender. It is given up when nothing came over it for LinkTimeout: a sender tells its status every
// StatusInterval.
type line struct {
	ctx    context.Context // ends with the line, its cause says why
	fail   context.CancelCauseFunc
	stream wire.LinkReceiver
	every  time.Duration
	dog    *time.Timer
	shut   func()
	end    func() bool
}

// dial opens a line. Its caller closes it.
func (c *receiving) dial(ctx context.Context, sender im.Region) (*line, error) {
	ctx, fail := context.WithCancelCause(ctx)
	l := &line{ctx: ctx, fail: fail, every: c.r.cfg.LinkTimeout}
	l.dog = time.AfterFunc(l.every, func() {
		fail(im.Errorf(im.CodeUnavailable, "the link to %s is silent for %v", sender, l.every))
	})
	stream, err := c.r.deps.Dialer.Link(ctx, sender)
	if err != nil {
		err = errors.Join(context.Cause(ctx), err)
		l.dog.Stop()
		fail(nil)
		return nil, err
	}
	l.stream, l.shut = stream, sync.OnceFunc(stream.Close)
	l.end = context.AfterFunc(ctx, l.shut)
	return l, nil
}

// ask sends the first message and returns its answer.
func (l *line) ask(m *wire.LinkRequest) (*wire.LinkResponse, error) {
	if err := l.stream.Send(m); err != nil {
		return nil, errors.Join(context.Cause(l.ctx), err)
	}
	return l.recv()
}

// recv returns what comes next.
func (l *line) recv() (*wire.LinkResponse, error) {
	m, err := l.stream.Recv()
	if err != nil {
		if cause := context.Cause(l.ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	l.dog.Reset(l.every)
	return m, nil
}

func (l *line) close() {
	l.fail(nil)
	l.end()
	l.dog.Stop()
	l.shut()
}
