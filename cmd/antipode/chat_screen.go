package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
)

// ANSI: the messages scroll in a region of their own above the status line and the line that is typed in, which stays
// with the terminal (its own editing works, and what is half typed is never overdrawn).
const (
	ansiClear   = "\x1b[2J"
	ansiErase   = "\x1b[K" // to the end of the line
	ansiSave    = "\x1b7"
	ansiRestore = "\x1b8"
	ansiInverse = "\x1b[7m"
	ansiPlain   = "\x1b[0m"
)

const chatHelp = "/add UID · /remove UID · /leave · /members · /quit, or end of input"

// runScreen is the chat on a terminal.
func runScreen(ctx context.Context, v *chatView, f chatFlags, in *os.File, out *os.File) error {
	ctx, cancel := talking(ctx)
	defer cancel(nil)
	s := &screen{out: bufio.NewWriter(out), size: func() (int, int) { return terminalSize(out) }, dirty: make(chan struct{}, 1)}
	painted := make(chan struct{})
	go func() {
		defer close(painted)
		s.paint(ctx, v)
	}()
	events := make(chan struct{})
	go func() {
		defer close(events)
		for e := range v.client.Events() {
			v.take(e)
			s.touch()
			switch e := e.(type) {
			case client.CaughtUp:
				go v.learn(ctx, s.touch)
			case client.Inserted:
				if e.Message.Kind == im.KindMember {
					go v.learn(ctx, s.touch)
				}
			case client.Stopped:
				cancel(e.Err)
			}
		}
	}()
	err := s.typed(ctx, v, f, in)
	v.client.Close()
	<-events
	cancel(nil)
	<-painted
	s.leave()
	return err
}

// learn asks who is in the conversation and how far they are.
func (v *chatView) learn(ctx context.Context, touch func()) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, members, err := v.client.Members(ctx, v.conversation)
	if err != nil {
		return // shown again at the next event
	}
	receipts, err := v.client.Receipts(ctx, v.conversation)
	if err != nil {
		receipts = nil
	}
	v.know(members, receipts)
	touch()
}

// screen draws a chatView.
type screen struct {
	out   *bufio.Writer
	size  func() (width, height int)
	dirty chan struct{}
}

// touch asks for a new drawing.
func (s *screen) touch() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// paint draws when something changed, at most thirty times a second, until ctx ends.
func (s *screen) paint(ctx context.Context, v *chatView) {
	width, height := 0, 0
	pace := time.NewTicker(33 * time.Millisecond)
	defer pace.Stop()
	resized := time.NewTicker(time.Second)
	defer resized.Stop()
	for {
		w, h := s.size()
		if w != width || h != height {
			width, height = w, h
			fmt.Fprintf(s.out, "%s\x1b[1;%dr\x1b[%d;1H> ", ansiClear, height-2, height)
		}
		s.draw(v, width, height)
		select {
		case <-s.dirty:
			<-pace.C
		case <-resized.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *screen) draw(v *chatView, width, height int) {
	lines, status := v.screen(width, height-2)
	fmt.Fprint(s.out, ansiSave)
	for row := range height - 2 {
		fmt.Fprintf(s.out, "\x1b[%d;1H", row+1)
		if i := row - (height - 2 - len(lines)); i >= 0 {
			fmt.Fprint(s.out, lines[i])
		}
		fmt.Fprint(s.out, ansiErase)
	}
	fmt.Fprintf(s.out, "\x1b[%d;1H%s%s%s%s", height-1, ansiInverse, status, strings.Repeat(" ", max(0, width-len([]rune(status)))), ansiPlain)
	fmt.Fprint(s.out, ansiRestore)
	s.out.Flush()
}

// leave gives the whole terminal back.
func (s *screen) leave() {
	_, height := s.size()
	fmt.Fprintf(s.out, "\x1b[r\x1b[%d;1H%s\n", height, ansiErase)
	s.out.Flush()
}

// typed sends what is typed until the input ends, and then waits for the acks.
func (s *screen) typed(ctx context.Context, v *chatView, f chatFlags, in io.Reader) error {
	lines := make(chan string)
	go func() { // a read of a terminal cannot be interrupted: it ends with the process
		defer close(lines)
		scan := bufio.NewScanner(in)
		for scan.Scan() {
			select {
			case lines <- scan.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	under := make(chan struct{}, 256) // sends under way
	for {
		select {
		case line, ok := <-lines:
			if !ok || line == "/quit" {
				for range cap(under) { // all of them are done when nobody holds a place
					select {
					case under <- struct{}{}:
					case <-ctx.Done():
						return nil
					}
				}
				return nil
			}
			_, height := s.size()
			fmt.Fprintf(os.Stdout, "\x1b[%d;1H%s> ", height, ansiErase)
			if line == "" {
				continue
			}
			select {
			case under <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			if strings.HasPrefix(line, "/") {
				go func() {
					defer func() { <-under }()
					s.command(ctx, v, line)
				}()
				continue
			}
			shown := v.send(line)
			sending, cancel := context.WithTimeout(ctx, sendTimeout)
			p, err := v.client.Post(sending, v.conversation, line, client.WithAck(im.AckLevel(f.ack)))
			go func() {
				defer func() { <-under }()
				defer cancel()
				if err == nil {
					_, err = p.Wait()
				}
				v.settle(shown, err)
				s.touch()
			}()
			s.touch()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// command runs what begins with a slash.
func (s *screen) command(ctx context.Context, v *chatView, line string) {
	defer s.touch()
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	name, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	var err error
	switch name {
	case "/add":
		_, err = v.client.AddMembers(ctx, v.conversation, im.UID(arg))
	case "/remove":
		_, err = v.client.RemoveMembers(ctx, v.conversation, im.UID(arg))
	case "/leave":
		_, err = v.client.RemoveMembers(ctx, v.conversation, v.me)
	case "/members":
		var title string
		var members []im.UID
		if title, members, err = v.client.Members(ctx, v.conversation); err == nil {
			v.say("%s %v", title, members)
		}
	default:
		v.say("%s", chatHelp)
	}
	if err != nil {
		v.say("%s: %v", name, err)
	}
}

// say shows something that is no message.
func (v *chatView) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.notice(format, args...)
}
