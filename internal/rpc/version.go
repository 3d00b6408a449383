package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Versions are the versions of the calls between services that this build speaks. A field or method that is added does not
// raise them: builds that do not know it pass over the one and answer unknown_method to the other, and their callers do
// without. They are raised for what an older build would misunderstand. Links agree on a version of their own.
func Versions() wire.Versions { return wire.Versions{Oldest: 1, Newest: 1} }

// versionHeader carries the caller's versions with every call and stream. Builds from before there was one speak version 1.
const versionHeader = "antipode-versions"

// telling adds the caller's versions to a context.
func telling(ctx context.Context, v wire.Versions) context.Context {
	return metadata.AppendToOutgoingContext(ctx, versionHeader, v.Text())
}

// understands refuses a caller with which the server has no version in common. The caller's users may try again: another
// instance may have been upgraded already.
func understands(ctx context.Context, ours wire.Versions) error {
	theirs := wire.Versions{Oldest: 1, Newest: 1}
	if text := metadata.ValueFromIncomingContext(ctx, versionHeader); len(text) > 0 {
		var err error
		if theirs, err = wire.ParseVersions(text[0]); err != nil {
			return im.Errorf(im.CodeBadRequest, "header %s: %v", versionHeader, err)
		}
	}
	if _, ok := ours.Common(theirs); ok {
		return nil
	}
	behind := "this server"
	if theirs.Newest < ours.Oldest {
		behind = "the caller"
	}
	return im.Errorf(im.CodeUnavailable, "this server speaks versions %v of the calls between services, its caller %v: upgrade %s to a release that speaks both first",
		ours, theirs, behind)
}

func (s *Server) versionedUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := understands(ctx, s.cfg.versions); err != nil {
		return nil, toStatus(err)
	}
	return handle(ctx, req)
}

func (s *Server) versionedStream(impl any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := understands(ss.Context(), s.cfg.versions); err != nil {
		return toStatus(err)
	}
	return handle(impl, ss)
}
