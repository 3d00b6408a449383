package wire

import (
	"errors"
	"time"

	"github.com/antipode-im/antipode/im"
)

func asError(err error) (*im.Error, bool) { return errors.AsType[*im.Error](err) }

// ErrorOf returns the error that a frame or reply carries, nil for none.
func ErrorOf(e *Error) error {
	if e == nil {
		return nil
	}
	return &im.Error{
		Code: im.Code(e.Code), Detail: e.Detail,
		RetryAfter: time.Duration(e.RetryAfterMs) * time.Millisecond,
	}
}
