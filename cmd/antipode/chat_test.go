package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
)

func chatMessage(sender im.UID, seq uint64, text string) client.Message {
	return client.Message{
		ID:   im.ID{Conversation: "d:ann:bob", Sender: sender, ClientID: im.UUID{15: byte(seq)}},
		Kind: im.KindMessage, Place: im.Place{Stamp: im.Stamp(seq << 16), Origin: "eu", Seq: seq}, Text: text,
	}
}

func TestTicks(t *testing.T) {
	v := newChatView(nil, "ann", "g:eu:x")
	m := chatMessage("ann", 5, "hello")
	v.others = []im.UID{"bob", "carl"}
	for _, step := range []struct {
		uid             im.UID
		delivered, read uint64
		want            string
	}{
		{"bob", 4, 4, "✓"},
		{"bob", 5, 4, "✓✓ 1/2"},
		{"carl", 9, 0, "✓✓"},
		{"bob", 3, 3, "✓✓"}, // cursors only grow
		{"carl", 0, 7, "✓✓ read 1/2"},
		{"bob", 0, 5, "✓✓ read"},
		{"ann", 99, 99, "✓✓ read"},
	} {
		v.take(client.Receipt{
			Conversation: v.conversation, UID: step.uid, Delivered: im.Cursor{"eu": step.delivered}, Read: im.Cursor{"eu": step.read},
		})
		if got := v.ticks(m); got != step.want {
			t.Errorf("%s delivered %d, read %d: %q, want %q", step.uid, step.delivered, step.read, got, step.want)
		}
	}
}

// What others write cannot steer the terminal, nor turn a line around.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[2Jgone":         "·[2Jgone",
		"a\nb\tc":             "a b c",
		"\u202eabc":           "·abc",
		"\x9b31m":             "\ufffd31m", // not UTF-8, so not the control character either
		"\u009b31m":           "·31m",
		"héllo 👩‍👧 ok":        "héllo 👩‍👧 ok",
		"e\u0301 with accent": "e\u0301 with accent",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestScreen(t *testing.T) {
	v := newChatView(nil, "ann", "d:ann:bob")
	for i := range 10 {
		v.messages = append(v.messages, chatMessage("bob", uint64(i+1), fmt.Sprint("m", i)))
	}
	v.messages[9].Text = strings.Repeat("x", 60)
	s := v.send("under way")
	lines, status := v.screen(40, 6)
	if len(lines) != 6 || !strings.HasSuffix(lines[0], "m7") || !strings.Contains(lines[5], "under way") {
		t.Errorf("%q", lines)
	}
	for _, l := range append(lines, status) {
		if len([]rune(l)) > 40 {
			t.Errorf("%q is wider than 40", l)
		}
	}
	if !strings.Contains(status, "ann with bob") {
		t.Errorf("status %q", status)
	}
	v.settle(s, im.Errorf(im.CodeNotMember, "no"))
	if lines, _ := v.screen(80, 3); !strings.Contains(lines[2], "✗ not_member") {
		t.Errorf("%q", lines)
	}
}

// fakeSubmission is acked, or refused, when it is closed.
type fakeSubmission struct {
	done chan struct{}
	err  error
}

func (s fakeSubmission) Done() <-chan struct{} { return s.done }

func (s fakeSubmission) Wait() (im.Ack, error) {
	<-s.done
	return im.Ack{}, s.err
}

// At the end of its input a chat waits for what is not acknowledged yet, but not for ever.
func TestAwaitAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sends := func(n int) (open []submission) {
			for i := range n {
				s := fakeSubmission{done: make(chan struct{})}
				if i == 1 {
					s.err = im.Errorf(im.CodeNotMember, "no")
				}
				open = append(open, s)
			}
			return open
		}
		ack := func(s submission, after time.Duration) {
			time.AfterFunc(after, func() { close(s.(fakeSubmission).done) })
		}
		began := time.Now()
		if err := awaitAcks(nil, time.Minute); err != nil {
			t.Errorf("nothing was sent: %v", err)
		}
		one := sends(1)
		ack(one[0], 30*time.Second)
		if err := awaitAcks(one, time.Minute); err != nil || time.Since(began) != 30*time.Second {
			t.Errorf("acknowledged after 30 s: %v after %v", err, time.Since(began))
		}
		three := sends(3)
		ack(three[0], 20*time.Second)
		ack(three[1], 10*time.Second)
		began = time.Now()
		err := awaitAcks(three, time.Minute)
		if err == nil || !strings.Contains(err.Error(), "not_member") || !strings.Contains(err.Error(), "1 message not acknowledged within 1m0s") ||
			time.Since(began) != time.Minute {
			t.Errorf("one refused, one never answered: %v after %v", err, time.Since(began))
		}
	})
}

func TestTokensFrom(t *testing.T) {
	for _, body := range []string{"abc\n", `{"token":"abc"}`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("uid") != "ann" || r.URL.Query().Get("app") != "x" {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			fmt.Fprint(w, body)
		}))
		if token, err := tokensFrom(s.URL+"?app=x", "ann")(t.Context(), false); err != nil || token != "abc" {
			t.Errorf("%q, %v", token, err)
		}
		if _, err := tokensFrom(s.URL, "bob")(t.Context(), false); err == nil {
			t.Error("a refusal was taken for a token")
		}
		s.Close()
	}
}
