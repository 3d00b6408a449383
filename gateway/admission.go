package gateway

import (
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// admit lets a login begin, or says why not. The caller counts it out of joining when it is done.
func (g *Gateway) admit(*wire.Hello) *im.Error {
	g.joining.Add(1)
	return nil
}
