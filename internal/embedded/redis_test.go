package embedded

import (
	"net"
	"testing"
)

func TestRedisPortTaken(t *testing.T) {
	r, err := StartRedis("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(r.Addr())
	_, err = StartRedis(r.Addr())
	wantError(t, err, "port "+port+" on 127.0.0.1 is taken")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(); err != nil { // after Close: nothing
		t.Fatal(err)
	}
	if again, err := StartRedis(r.Addr()); err != nil {
		t.Errorf("the port is still held: %v", err)
	} else {
		again.Close()
	}
}
