package rpc

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// Versions that overlap are spoken; others are refused, with who must be upgraded, by calls of every kind.
func TestVersions(t *testing.T) {
	for name, c := range map[string]struct {
		server, caller wire.Versions
		behind         string // empty: they understand each other
	}{
		"equal":                {wire.Versions{Oldest: 1, Newest: 1}, wire.Versions{Oldest: 1, Newest: 1}, ""},
		"the caller is newer":  {wire.Versions{Oldest: 1, Newest: 1}, wire.Versions{Oldest: 1, Newest: 2}, ""},
		"the server is newer":  {wire.Versions{Oldest: 2, Newest: 3}, wire.Versions{Oldest: 1, Newest: 2}, ""},
		"the caller is behind": {wire.Versions{Oldest: 3, Newest: 4}, wire.Versions{Oldest: 1, Newest: 2}, "upgrade the caller"},
		"the server is behind": {wire.Versions{Oldest: 1, Newest: 2}, wire.Versions{Oldest: 3, Newest: 3}, "upgrade this server"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &raw{
				call: func(context.Context, *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
					return &antipodev1.BackendCallResponse{}, nil
				},
				held: func(s grpc.ServerStreamingServer[antipodev1.HeldResponse]) error {
					return s.Send(&antipodev1.HeldResponse{})
				},
			}
			addr, _ := serve(t, ServerConfig{versions: c.server}, r)
			conn := dial(t, addr, DialConfig{versions: c.caller})
			_, called := antipodev1.NewBackendClient(conn).Call(t.Context(), &antipodev1.BackendCallRequest{})
			_, large := antipodev1.NewBackendClient(conn).Call(t.Context(), &antipodev1.BackendCallRequest{Body: make([]byte, maxCarried+1)})
			s, err := antipodev1.NewReplicatorClient(conn).Held(t.Context(), &antipodev1.HeldRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			for kind, err := range map[string]error{"carried call": called, "large call": large, "stream": err} {
				if c.behind == "" && err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				if c.behind != "" && (im.CodeOf(err) != im.CodeUnavailable || !strings.Contains(err.Error(), c.behind)) {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
}

// A build from before versions were told is version 1.
func TestVersionsUntold(t *testing.T) {
	for newest, ok := range map[uint32]bool{1: true, 3: false} {
		addr, _ := serve(t, ServerConfig{versions: wire.Versions{Oldest: newest, Newest: newest}}, &raw{
			call: func(context.Context, *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
				return &antipodev1.BackendCallResponse{}, nil
			},
		})
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = antipodev1.NewBackendClient(conn).Call(t.Context(), &antipodev1.BackendCallRequest{})
		if (err == nil) != ok {
			t.Errorf("a server of version %d: %v", newest, err)
		}
	}
}
