package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// BackendService answers clients' calls: an imserver, or whichever service registered a name at the gateways.
type BackendService interface {
	Call(ctx context.Context, c im.Call) (im.CallResult, error)
}

// RegisterBackend serves b.
func RegisterBackend(s grpc.ServiceRegistrar, b BackendService) {
	antipodev1.RegisterBackendServer(s, &backendServer{backend: b})
}

type backendServer struct {
	antipodev1.UnimplementedBackendServer
	backend BackendService
}

// Call answers with the error inside the response: a transport error means that nobody answered.
func (s *backendServer) Call(ctx context.Context, r *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
	result, err := s.backend.Call(ctx, im.Call{
		Service: r.Service, Method: r.Method, Key: r.Key, Body: r.Body,
		UID: im.UID(r.Uid), Device: im.DeviceID(r.Device), Platform: im.Platform(r.Platform),
		Seen: im.Stamp(r.Seen), MaxText: int(r.MaxTextBytes),
	})
	if err != nil {
		return &antipodev1.BackendCallResponse{Error: wire.ErrorFrame(err)}, nil
	}
	return &antipodev1.BackendCallResponse{
		Body: result.Body, Stamp: uint64(result.Stamp), Interests: wire.Texts(result.Join), AllInterests: result.All,
	}, nil
}

// Backend calls one instance.
type Backend struct{ client antipodev1.BackendClient }

// NewBackend returns the caller's end of a connection to an instance.
func NewBackend(cc grpc.ClientConnInterface) *Backend {
	return &Backend{antipodev1.NewBackendClient(cc)}
}

// Call runs a call at the instance. Every error is an *im.Error: the instance's own, or unavailable when it did not
// answer, in which case it may or may not have acted.
func (b *Backend) Call(ctx context.Context, c im.Call) (im.CallResult, error) {
	r, err := b.client.Call(ctx, &antipodev1.BackendCallRequest{
		Service: c.Service, Method: c.Method, Key: c.Key, Body: c.Body,
		Uid: string(c.UID), Device: string(c.Device), Platform: string(c.Platform),
		Seen: uint64(c.Seen), MaxTextBytes: uint32(c.MaxText),
	})
	known, coded := errors.AsType[*im.Error](err)
	switch {
	case coded:
		return im.CallResult{}, known
	case status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		return im.CallResult{}, im.Errorf(im.CodeUnavailable, "the service %q did not answer in time; sending again is safe", c.Service)
	case err != nil:
		return im.CallResult{}, im.Errorf(im.CodeUnavailable, "the service %q does not answer; sending again is safe", c.Service)
	case r.Error != nil:
		return im.CallResult{}, wire.ErrorOf(r.Error)
	}
	return im.CallResult{Body: r.Body, Stamp: im.Stamp(r.Stamp), Join: wire.UIDs(r.Interests), All: r.AllInterests}, nil
}
