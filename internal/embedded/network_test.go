package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// answer accepts until the listener ends, and sends back what it is sent.
func answer(l net.Listener) <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return ended
}

func ask(conn net.Conn, question string) error {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, question); err != nil {
		return err
	}
	b := make([]byte, len(question))
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != question {
		return fmt.Errorf("answered %q", b)
	}
	return nil
}

// An address bound through a Network answers there in memory, and everybody else on TCP.
func TestNetwork(t *testing.T) {
	var n, other Network
	l, err := n.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	ended := answer(l)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var conns []net.Conn
	for _, test := range []struct {
		from *Network
		tcp  bool
	}{{&n, false}, {&other, true}} {
		conn, err := test.from.Dial(ctx, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, tcp := conn.(*net.TCPConn); tcp != test.tcp {
			t.Errorf("connected by %T", conn)
		}
		if err := ask(conn, "who is there?"); err != nil {
			t.Error(err)
		}
		conns = append(conns, conn)
	}
	if _, err := n.Listen(addr); err == nil {
		t.Error("a taken address was bound again")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting ended with %v", err)
	}
	for _, conn := range conns {
		if err := ask(conn, "still there?"); err != nil {
			t.Error("a connection ended with its listener:", err)
		}
	}
	for _, from := range []*Network{&n, &other} {
		if conn, err := from.Dial(ctx, addr); err == nil {
			conn.Close()
			t.Error("connected to an address that was closed")
		}
	}
	if l, err = n.Listen(addr); err != nil {
		t.Fatal("the address is not free again:", err)
	}
	l.Close()
}

// A listener that nobody accepts from any more does not keep Close, nor who dials beyond its context.
func TestNetworkNobodyAccepts(t *testing.T) {
	var n Network
	l, err := n.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := n.Dial(ctx, l.Addr().String()) // taken by the listener, as a TCP backlog would
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if conn, err := n.Dial(ctx, l.Addr().String()); err == nil {
		conn.Close()
		t.Error("connected after the context ended")
	}
}

// What a killed Kafka had connected in memory is cut as its sockets are.
func TestKillCutsMemory(t *testing.T) {
	var n Network
	k, err := StartKafka(t.Context(), KafkaConfig{Addr: "127.0.0.1:0", Dir: t.TempDir(), Network: &n})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := n.Dial(t.Context(), k.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v", n, err)
	}
}
