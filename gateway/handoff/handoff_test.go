//go:build unix

package handoff_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/antipode-im/antipode/gateway/handoff"
)

type message struct {
	Text  string
	Bytes []byte
}

func TestFilesAndValues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.sock")
	if _, err := handoff.Dial(path, time.Second); !errors.Is(err, handoff.ErrNobody) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // left behind
		t.Fatal(err)
	}
	l, err := handoff.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			sent <- err
			return
		}
		defer c.Close()
		for i := range 20 { // messages follow each other closely: each must keep its own files
			var fds []int
			var files []*os.File
			for j := range i * 12 {
				r, w, err := os.Pipe()
				if err != nil {
					sent <- err
					return
				}
				fmt.Fprint(w, i, ".", j)
				w.Close()
				files = append(files, r)
				fds = append(fds, int(r.Fd()))
			}
			err := c.Send(message{fmt.Sprint(i), bytes.Repeat([]byte{byte(i)}, i*10_000)}, fds...)
			for _, f := range files {
				f.Close()
			}
			if err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	c, err := handoff.Dial(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	for i := range 20 {
		var m message
		fds, err := c.Receive(&m)
		if err != nil {
			t.Fatal(err)
		}
		if m.Text != fmt.Sprint(i) || len(m.Bytes) != i*10_000 || len(fds) != i*12 {
			t.Fatalf("message %d is %q with %d bytes and %d files", i, m.Text, len(m.Bytes), len(fds))
		}
		for j, fd := range fds {
			f := os.NewFile(uintptr(fd), "pipe")
			got, err := io.ReadAll(f)
			f.Close()
			if err != nil || string(got) != fmt.Sprint(i, ".", j) {
				t.Fatalf("file %d of message %d says %q, %v", j, i, got, err)
			}
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(new(message)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := c.Send(message{}, make([]int, handoff.MaxFiles+1)...); err == nil {
		t.Fatal("too many files were taken")
	}
}
