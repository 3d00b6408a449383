package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// chatFlags is what `antipode chat` is told.
type chatFlags struct {
	as, to, group, newGroup string
	members                 []string
	region                  string
	dev, cluster            string
	ipconf                  []string
	token, tokenURL         string
	device                  string
	ack                     string
	json                    bool
	history                 int
	linger                  time.Duration
}

func newChatCommand() *cobra.Command {
	var f chatFlags
	cmd := &cobra.Command{
		Use:   "chat --as UID (--to UID | --group ID | --new-group TITLE --members UID,UID)",
		Short: "Chat in the terminal, against dev or any cluster",
		Long: `Chat in the terminal through the Go client, against antipode dev or any cluster.

Each line typed is sent; /help lists what else can be done. With a pipe as input each line is sent as it is, and the
command ends with 0 when all of them were acknowledged, which it says, and with 1 when one of them was refused or is not
acknowledged within two minutes of the input's end.

Own messages show how far they are: ✓ accepted, ✓✓ delivered to everybody, ✓✓ read.`,
		Example: `  antipode chat --as ann --to bob --region eu
  antipode chat --as bob --to ann --region us
  antipode chat --as ann --new-group lunch --members bob,carl
  echo hello | antipode chat --as ann --to bob
  antipode chat --as ann --to bob --ipconf https://ipconf.eu.example --token-url https://login.example/token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return chat(cmd.Context(), f, os.Stdin, os.Stdout)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.as, "as", "", "who you are (uid)")
	fs.StringVar(&f.to, "to", "", "whom to talk to (uid)")
	fs.StringVar(&f.group, "group", "", "id of the group to talk in (g:<origin>:<uuid>)")
	fs.StringVar(&f.newGroup, "new-group", "", "title of a group to create and talk in")
	fs.StringSliceVar(&f.members, "members", nil, "members of the new group (uids)")
	fs.StringVar(&f.region, "region", "", "region to connect to (default: the nearest)")
	fs.StringVar(&f.dev, "dev", "http://127.0.0.1:7400", "where antipode dev or cluster listens; it tells ipconfs and issues tokens unless they are given")
	fs.StringVar(&f.cluster, "cluster", "", "cluster.yaml of the antipode cluster to ask, instead of --dev")
	fs.StringArrayVar(&f.ipconf, "ipconf", nil, "base URL of an ipconf, of any region; may be repeated")
	fs.StringVar(&f.token, "token", "", "token to log in with")
	fs.StringVar(&f.tokenURL, "token-url", "", "URL that answers GET ?uid= with a token, as text or as JSON {\"token\": …}")
	fs.StringVar(&f.device, "device", "", "file that keeps this device's id and login number (default: a new device each time)")
	fs.StringVar(&f.ack, "ack", string(im.AckRegion), "what a send waits for: region or global")
	fs.BoolVar(&f.json, "json", false, "speak JSON instead of protobuf")
	fs.IntVar(&f.history, "history", 200, "older messages to fetch, per origin; 0: all")
	fs.DurationVar(&f.linger, "linger", 0, "with a pipe as input: how long to go on printing after its end")
	cmd.MarkFlagRequired("as")
	return cmd
}

// chat connects and talks until the input or ctx ends.
func chat(ctx context.Context, f chatFlags, in *os.File, out *os.File) error {
	if err := f.check(); err != nil {
		return misused(err)
	}
	cfg, err := f.config(ctx)
	if err != nil {
		return err
	}
	connecting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := client.Dial(connecting, cfg)
	if err != nil {
		return fmt.Errorf("cannot connect as %s: %w", f.as, err)
	}
	defer c.Close()
	if uid := c.UID(); uid != im.UID(f.as) {
		return fmt.Errorf("the token is one of %s: say --as %s, or take a token of %s", uid, uid, f.as)
	}
	conversation, err := f.conversation(connecting, c)
	if err != nil {
		return err
	}
	v := newChatView(c, im.UID(f.as), conversation)
	talk := func(ctx context.Context) error { return runPlain(ctx, v, f, in, out) }
	if isTerminal(in) && isTerminal(out) {
		talk = func(ctx context.Context) error { return runScreen(ctx, v, f, in, out) }
	}
	if err := talk(ctx); err != errInterrupted {
		return err
	}
	return nil
}

// errInterrupted is why a talk ends that somebody ended: no failure.
var errInterrupted = errors.New("interrupted")

// talking is a context of a talk: it ends with ctx, as interrupted, or with what the function is told.
func talking(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	talk, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { cancel(errInterrupted) }) // once for a process, so nothing stops it before
	return talk, cancel
}

// check looks at what can be told wrong before anybody is asked.
func (f chatFlags) check() error {
	if _, err := im.ParseUID(f.as); err != nil {
		return fmt.Errorf("--as: %w", err)
	}
	if f.ack != string(im.AckRegion) && f.ack != string(im.AckGlobal) {
		return fmt.Errorf("--ack %q: want region or global", f.ack)
	}
	if f.history < 0 {
		return fmt.Errorf("--history %d: want a number of messages, or 0 for all", f.history)
	}
	conversations := 0
	for _, named := range []string{f.to, f.group, f.newGroup} {
		if named != "" {
			conversations++
		}
	}
	switch {
	case conversations != 1:
		return errors.New("whom to talk to? Say one of --to UID, --group ID, and --new-group TITLE --members UID,UID")
	case f.to != "":
		if _, err := im.ParseUID(f.to); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
	case f.group != "":
		if _, err := im.ParseConversation(f.group); err != nil {
			return fmt.Errorf("--group: %w", err)
		}
	}
	for _, m := range f.members {
		if _, err := im.ParseUID(m); err != nil {
			return fmt.Errorf("--members: %w", err)
		}
	}
	return nil
}

func (f chatFlags) config(ctx context.Context) (client.Config, error) {
	cfg := client.Config{
		UID: im.UID(f.as), Region: im.Region(f.region), IPConf: f.ipconf, History: f.history, Agent: "antipode-chat", SampleRatio: 1,
	}
	if f.json {
		cfg.Subprotocol = wire.SubprotocolJSON
	}
	if f.device != "" {
		cfg.Store = client.FileStore{Path: f.device}
	}
	dev, err := devAPIOf(f.dev, f.cluster)
	if err != nil {
		return cfg, err
	}
	if len(cfg.IPConf) == 0 {
		if cfg.IPConf, err = dev.ipconfs(ctx, cfg.Region); err != nil {
			if unreachable := (*url.Error)(nil); errors.As(err, &unreachable) {
				err = fmt.Errorf("%w; or name an ipconf with --ipconf", err)
			}
			return cfg, err
		}
	}
	switch {
	case f.token != "":
		cfg.Token = client.StaticToken(f.token)
	case f.tokenURL != "":
		cfg.Token = tokensFrom(f.tokenURL, im.UID(f.as))
	default:
		cfg.Token = dev.tokens(im.UID(f.as))
	}
	return cfg, nil
}

// tokensFrom asks a URL for tokens.
func tokensFrom(base string, uid im.UID) client.TokenSource {
	return func(ctx context.Context, _ bool) (string, error) {
		u, err := url.Parse(base)
		if err != nil {
			return "", fmt.Errorf("--token-url: %w", err)
		}
		q := u.Query()
		q.Set("uid", string(uid))
		u.RawQuery = q.Encode()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return "", fmt.Errorf("--token-url: %w", err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", fmt.Errorf("--token-url: %w", err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return "", fmt.Errorf("--token-url: %w", err)
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("--token-url answers %s", resp.Status)
		}
		var v struct {
			Token string `json:"token"`
		}
		if json.Unmarshal(b, &v) == nil && v.Token != "" {
			return v.Token, nil
		}
		return strings.TrimSpace(string(b)), nil
	}
}

// conversation is the one to talk in; a new group is created here.
func (f chatFlags) conversation(ctx context.Context, c *client.Client) (im.Conversation, error) {
	switch {
	case f.to != "":
		return im.Direct(im.UID(f.as), im.UID(f.to)), nil
	case f.group != "":
		return im.Conversation(f.group), nil
	}
	var members []im.UID
	for _, m := range f.members {
		members = append(members, im.UID(m))
	}
	g, err := c.CreateGroup(ctx, f.newGroup, members)
	if err != nil {
		return "", fmt.Errorf("create the group: %w", err)
	}
	fmt.Fprintf(os.Stderr, "created %s: others join with --group %s\n", f.newGroup, g)
	return g, nil
}

func isTerminal(f *os.File) bool {
	s, err := f.Stat()
	return err == nil && s.Mode()&os.ModeCharDevice != 0
}

// sendTimeout bounds one send from the terminal.
const sendTimeout = 2 * time.Minute

// runPlain sends each line of the input and prints what comes, a line each, in the order in which it comes; one that
// belongs further up says so.
func runPlain(ctx context.Context, v *chatView, f chatFlags, in io.Reader, out io.Writer) error {
	ctx, cancel := talking(ctx)
	defer cancel(nil)
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for e := range v.client.Events() {
			if stopped, ok := e.(client.Stopped); ok {
				if errors.Is(stopped.Err, client.ErrClosed) {
					continue // by ourselves
				}
				cancel(fmt.Errorf("stopped: %w", stopped.Err))
			}
			for _, line := range v.take(e) {
				fmt.Fprintln(out, line)
			}
		}
	}()
	sent, open, err := sendLines(ctx, v, f, in)
	err = errors.Join(err, awaitAcks(open, sendTimeout))
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && sent > 0 {
		fmt.Fprintln(os.Stderr, plural(sent, "message")+" sent and acknowledged")
	}
	if err == nil && f.linger > 0 {
		t := time.NewTimer(f.linger)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	v.client.Close()
	<-printed
	return err
}

// submission is a submit under way, as the client has it.
type submission interface {
	Done() <-chan struct{}
	Wait() (im.Ack, error)
}

// awaitAcks waits until all are acked, refused or given up, as when their context ends, and no longer than the limit.
func awaitAcks(open []submission, limit time.Duration) (err error) {
	over := time.NewTimer(limit)
	defer over.Stop()
	for i, s := range open {
		select {
		case <-s.Done():
		case <-over.C:
			return errors.Join(err, fmt.Errorf("%s not acknowledged within %v: whether they were accepted is not known",
				plural(len(open)-i, "message"), limit))
		}
		_, refused := s.Wait()
		err = errors.Join(err, refused)
	}
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sendLines posts the input's lines, in order, and counts them. It returns when the input ends, not when they are acked: the
// last of them are still open.
func sendLines(ctx context.Context, v *chatView, f chatFlags, in io.Reader) (sent int, open []submission, err error) {
	lines := make(chan string)
	scanned := make(chan error, 1)
	go func() { // a read of a terminal or pipe cannot be interrupted: it ends with the process
		s := bufio.NewScanner(in)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
		scanned <- s.Err()
	}()
	for {
		select {
		case line := <-lines:
			if line == "" {
				continue
			}
			for len(open) > 0 && (len(open) >= 256 || done(open[0])) { // bounded, and the first refusal ends it
				if _, err := open[0].Wait(); err != nil {
					return sent, open, nil
				}
				open = open[1:]
			}
			s, err := v.client.Post(ctx, v.conversation, line, client.WithAck(im.AckLevel(f.ack)))
			if err != nil {
				return sent, open, err
			}
			sent, open = sent+1, append(open, s)
		case err := <-scanned:
			return sent, open, err
		case <-ctx.Done():
			return sent, open, nil
		}
	}
}

func done(s submission) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}
