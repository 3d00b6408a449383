//go:build unix

// Package handoff carries values and open files between two processes of one user on one machine, over a Unix socket.
//
// A message is its length, the number of its files, and a value in gob, whose descriptions let two builds with other
// fields understand each other. The files travel beside the first byte (SCM_RIGHTS), up to MaxFiles of them. The other
// end must run as the same user: the kernel says who it is.
package handoff

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// MaxFiles is the most that one message may carry: the kernel's limit is 253.
	MaxFiles = 240
	// maxBytes bounds a message: it comes from a process of the same user, but a length may be garbage.
	maxBytes = 64 << 20
	header   = 8
)

// Conn is one end. Send and Receive may be used at once.
type Conn struct {
	unix    *net.UnixConn
	sending sync.Mutex
}

// Listener waits for another process at a path.
type Listener struct{ unix *net.UnixListener }

// Listen binds the path, taking the place of a socket that was left behind.
func Listen(path string) (*Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("handoff: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("handoff: %w", err)
	}
	l.SetUnlinkOnClose(false) // by then it may be the successor's
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("handoff: %w", err)
	}
	return &Listener{l}, nil
}

// Accept waits for the next process; of another user's it hears nothing.
func (l *Listener) Accept() (*Conn, error) {
	for {
		c, err := l.unix.AcceptUnix()
		if err != nil {
			return nil, fmt.Errorf("handoff: %w", err)
		}
		if err := sameUser(c); err != nil {
			c.Close()
			continue
		}
		return &Conn{unix: c}, nil
	}
}

// Close stops listening. The path stays.
func (l *Listener) Close() error { return l.unix.Close() }

// Dial reaches the process that listens at a path. ErrNobody: none does.
func Dial(path string, timeout time.Duration) (*Conn, error) {
	c, err := (&net.Dialer{Timeout: timeout}).DialContext(context.Background(), "unix", path)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNobody
	case err != nil:
		return nil, fmt.Errorf("handoff: %w", err)
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("handoff: %s is no Unix socket", path)
	}
	if err := sameUser(unix); err != nil {
		unix.Close()
		return nil, err
	}
	return &Conn{unix: unix}, nil
}

// ErrNobody says that no process listens.
var ErrNobody = errors.New("handoff: no process listens")

// Close closes the connection.
func (c *Conn) Close() error { return c.unix.Close() }

// SetDeadline bounds what follows.
func (c *Conn) SetDeadline(t time.Time) error { return c.unix.SetDeadline(t) }

// Send sends a value and files, which stay open here.
func (c *Conn) Send(v any, files ...int) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("handoff: %d files in one message; at most %d fit", len(files), MaxFiles)
	}
	var b bytes.Buffer
	b.Write(make([]byte, header))
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		return fmt.Errorf("handoff: encode: %w", err)
	}
	if b.Len() > maxBytes {
		return fmt.Errorf("handoff: a message of %d bytes; at most %d fit", b.Len(), maxBytes)
	}
	all := b.Bytes()
	binary.BigEndian.PutUint32(all, uint32(len(all)-header))
	binary.BigEndian.PutUint32(all[4:], uint32(len(files)))
	var rights []byte
	if len(files) > 0 {
		rights = syscall.UnixRights(files...)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	n, _, err := c.unix.WriteMsgUnix(all[:header], rights, nil)
	if err == nil && n < header {
		err = io.ErrShortWrite
	}
	if err == nil {
		_, err = c.unix.Write(all[header:])
	}
	if err != nil {
		return fmt.Errorf("handoff: %w", err)
	}
	return nil
}

// Receive waits for the next value, and returns its files, which are the caller's, closed in programs it starts.
func (c *Conn) Receive(v any) (files []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range files {
				syscall.Close(fd)
			}
			files = nil
		}
	}()
	var head [header]byte
	rights := make([]byte, syscall.CmsgSpace(4*MaxFiles))
	for got := 0; got < header; {
		n, oobn, _, _, err := c.unix.ReadMsgUnix(head[got:], rights)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return files, fmt.Errorf("handoff: %w", err)
		}
		got += n
		more, err := received(rights[:oobn])
		files = append(files, more...)
		if err != nil {
			return files, err
		}
	}
	size, count := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if size > maxBytes {
		return files, fmt.Errorf("handoff: a message of %d bytes; at most %d are taken", size, maxBytes)
	}
	if int(count) != len(files) {
		return files, fmt.Errorf("handoff: %d files came with a message of %d", len(files), count)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(c.unix, b); err != nil {
		return files, fmt.Errorf("handoff: %w", err)
	}
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(v); err != nil {
		return files, fmt.Errorf("handoff: decode: %w", err)
	}
	return files, nil
}

func received(rights []byte) ([]int, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("handoff: files: %w", err)
	}
	var files []int
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return files, fmt.Errorf("handoff: files: %w", err)
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
		}
		files = append(files, fds...)
	}
	return files, nil
}
