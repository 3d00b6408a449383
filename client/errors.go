package client

import (
	"errors"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// ErrClosed is what calls return after Close.
var ErrClosed = errors.New("client: closed")

// remote is an error that came over the wire. It keeps the action that came with it, which decides when the code is of a
// newer server's list.
type remote struct {
	err    *im.Error
	action im.Action
}

func (r *remote) Error() string { return r.err.Error() }
func (r *remote) Unwrap() error { return r.err }

func remoteError(e *wire.Error) error {
	if e == nil {
		return nil
	}
	err, ok := asError(wire.ErrorOf(e))
	if !ok {
		return im.Errorf(im.CodeInternal, "an error without a code")
	}
	action := im.Action(e.Action)
	switch action {
	case im.ActionRetry, im.ActionBackOff, im.ActionStop:
	default:
		action = err.Code.Spec().Action
	}
	return &remote{err, action}
}

func asError(err error) (*im.Error, bool) { return errors.AsType[*im.Error](err) }

// errLost is why calls fail when their socket does: whether they arrived is not known, and a resend is safe.
var errLost = &im.Error{Code: im.CodeUnavailable, Detail: "the connection was lost before the reply"}

// isLost tells whether err is errLost itself, not just of its code.
func isLost(err error) bool {
	e, ok := asError(err)
	return ok && e == errLost
}

// actionOf tells what to do about an error. One that has no code comes from this side's network: back off.
func actionOf(err error) im.Action {
	if r, ok := errors.AsType[*remote](err); ok {
		return r.action
	}
	if e, ok := asError(err); ok {
		return e.Code.Spec().Action
	}
	return im.ActionBackOff
}

// public strips what callers need not see.
func public(err error) error {
	if r, ok := errors.AsType[*remote](err); ok {
		return r.err
	}
	return err
}
