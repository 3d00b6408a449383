package rpc

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// toStatus turns an error of ours into a gRPC status whose detail carries code, text and retry delay whole.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*im.Error](err)
	if !ok {
		if _, isStatus := status.FromError(err); isStatus {
			return err
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, err.Error())
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, err.Error())
		}
		e = &im.Error{Code: im.CodeInternal, Detail: err.Error()}
	}
	s, failed := status.New(grpcCode(e.Code), e.Error()).WithDetails(wire.ErrorFrame(e))
	if failed != nil { // a detail that is not UTF-8: the code alone
		return status.Error(grpcCode(e.Code), string(e.Code))
	}
	return s.Err()
}

// grpcCode is for generic tools (dashboards, grpcurl); our own ends read the detail.
func grpcCode(c im.Code) codes.Code {
	switch c {
	case im.CodeInternal:
		return codes.Internal
	case im.CodeUnavailable, im.CodeUnready, im.CodeDraining:
		return codes.Unavailable
	case im.CodeOverloaded, im.CodeTooManyRequests:
		return codes.ResourceExhausted
	case im.CodeBadToken, im.CodeTokenExpired:
		return codes.Unauthenticated
	case im.CodeNotMember:
		return codes.PermissionDenied
	case im.CodeUnknownConversation, im.CodeUnknownService:
		return codes.NotFound
	case im.CodeUnknownMethod:
		return codes.Unimplemented
	case im.CodeNotYetHere, im.CodeWrongRegion, im.CodeQueueFailed, im.CodeReplaced, im.CodeLoginTie, im.CodeGatewayFenced, im.CodeSessionExpired:
		return codes.FailedPrecondition
	default:
		return codes.InvalidArgument
	}
}

// fromStatus turns what gRPC returned into an *im.Error: the other end's own if it sent one, else unavailable, because
// then the call did not get through or did not come back. io.EOF, and the caller's own cancelled context, stay as they
// are.
func fromStatus(ctx context.Context, target string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		if e, ok := d.(*antipodev1.Error); ok {
			return wire.ErrorOf(e)
		}
	}
	switch s.Code() {
	case codes.Canceled:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	case codes.Unimplemented:
		return im.Errorf(im.CodeUnknownMethod, "%s: %s", target, s.Message())
	case codes.Internal, codes.DataLoss, codes.Unknown:
		return im.Errorf(im.CodeInternal, "%s: %s", target, s.Message())
	case codes.ResourceExhausted: // a message over the limit
		return im.Errorf(im.CodeBadRequest, "%s: %s", target, s.Message())
	}
	return &im.Error{Code: im.CodeUnavailable, Detail: target + ": " + s.Message(), RetryAfter: 200 * time.Millisecond}
}
