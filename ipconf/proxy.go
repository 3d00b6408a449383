package ipconf

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// behindProxies takes the client's address from the PROXY header that trusted proxies send first, and must send: without it,
// every client would seem to be where the proxy is. Nobody else may connect: they could name any address.
func behindProxies(l net.Listener, trusted []netip.Prefix) net.Listener {
	return &proxyproto.Listener{
		Listener: l, ReadHeaderTimeout: 5 * time.Second,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if tcp, ok := o.Upstream.(*net.TCPAddr); ok && contains(trusted, tcp.AddrPort().Addr().Unmap()) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.REJECT, errors.Join(proxyproto.ErrInvalidUpstream, errors.New("ipconf: "+o.Upstream.String()+" is none of trusted_proxies"))
		},
	}
}
