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
	sender im.Region
	every  time.Duration
	now    func() time.Time
	heard  time.Time // when something came over it last; zero: never
	dog    *time.Timer
	shut   func()
	end    func() bool
}

// dial opens a line over which something comes within a time. Its caller closes it.
func (c *receiving) dial(ctx context.Context, sender im.Region, within time.Duration) (*line, error) {
	ctx, fail := context.WithCancelCause(ctx)
	l := &line{ctx: ctx, fail: fail, sender: sender, every: c.r.cfg.LinkTimeout, now: c.r.now}
	l.dog = l.watch(within)
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

// watch gives the line up after a time, unless it is put off.
func (l *line) watch(d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() { l.fail(im.Errorf(im.CodeUnavailable, "the link to %s is silent for %v", l.sender, d)) })
}

// dialling is a line that is opened while the copies are read: over a distance a handshake takes longer than that.
type dialling struct {
	c      *receiving
	ctx    context.Context
	cancel context.CancelFunc
	sender im.Region
	done   chan struct{} // closed when the first attempt ended
	ended  time.Time
	line   *line
	err    error
}

// dialAhead begins to open a line. Its caller leaves it.
func (c *receiving) dialAhead(ctx context.Context, sender im.Region) *dialling {
	d := &dialling{c: c, sender: sender, done: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(ctx)
	go func() {
		defer close(d.done)
		d.line, d.err = c.dial(d.ctx, sender, c.within())
		d.ended = time.Now()
	}()
	return d
}

// take returns the line. One that ended meanwhile, or was opened long ago, is opened anew: senders wait for LinkTimeout to be asked for
// something. So is one that failed before it is asked for: where both ends start at a time, the other may listen by now.
func (d *dialling) take() (*line, error) {
	early := false
	select {
	case <-d.done:
		early = true
	default:
		<-d.done
	}
	switch {
	case d.err != nil && !early:
		return nil, d.err
	case d.err == nil && time.Since(d.ended) < d.c.r.cfg.LinkTimeout/2 && d.line.ctx.Err() == nil:
		return d.line, nil
	}
	if d.line != nil {
		d.line.close()
	}
	d.line, d.err = d.c.dial(d.ctx, d.sender, d.c.within())
	return d.line, d.err
}

// leave closes the line.
func (d *dialling) leave() {
	d.cancel()
	<-d.done
	if d.line != nil {
		d.line.close()
	}
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
	if l.heard.IsZero() {
		l.dog.Stop()
		l.dog = l.watch(l.every)
	}
	l.dog.Reset(l.every)
	l.heard = l.now()
	return m, nil
}

func (l *line) close() {
	l.fail(nil)
	l.end()
	l.dog.Stop()
	l.shut()
}
