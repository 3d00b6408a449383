package app

import (
	"errors"
	"strings"
	"testing"
)

func TestPlainLog(t *testing.T) {
	var out strings.Builder
	log := newPlainLog(&out)
	log.Info("nobody wants to know")
	log.Warn("waiting for a backend", "backend", "consul", "left", "20s")
	log.With("datacenter", "eu").WithGroup("kv").Error("Consul refuses", "key", "a b", "error", errors.New("one\ntwo"))
	log.With("datacenter", "us").Warn("it is silent")
	log.Warn("nothing more is known")
	const want = `warning: waiting for a backend (backend consul, left 20s)
error: Consul refuses (datacenter eu, kv.key a b, kv.error one; two)
warning: it is silent (datacenter us)
warning: nothing more is known
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
