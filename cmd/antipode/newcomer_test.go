package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asCommand, in the environment, makes this test's binary the command itself.
const asCommand = "TEST_AS_ANTIPODE"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a running antipode, as somebody started it in a terminal.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // closed when it has ended
	code  int           // then

	mu     sync.Mutex
	lines  []string // of stdout
	grown  chan struct{}
	errors bytes.Buffer // stderr
}

// patience bounds what fails; nothing waits for it to pass.
const patience = 4 * time.Minute

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(context.Background(), binary, args...), ended: make(chan struct{}), grown: make(chan struct{}, 1)}
	p.cmd.Env = append(os.Environ(), asCommand+"=1")
	p.cmd.Stderr = lockedWriter{&p.mu, &p.errors}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		s := bufio.NewScanner(out)
		for s.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.mu.Unlock()
			select {
			case p.grown <- struct{}{}:
			default:
			}
		}
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.cmd.Process.Kill()
			<-p.ended
		}
		if t.Failed() {
			t.Logf("antipode %s\n%s", strings.Join(args, " "), p.said())
		}
	})
	return p
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(b)
}

// said is all that it wrote, stderr last.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n") + "\n" + p.errors.String()
}

// shows waits until stdout has a line that matches, and returns its groups.
func (p *process) shows(pattern string) []string {
	p.t.Helper()
	re, deadline := regexp.MustCompile(pattern), time.After(patience)
	for {
		p.mu.Lock()
		lines := slices.Clone(p.lines)
		p.mu.Unlock()
		for _, line := range lines {
			if groups := re.FindStringSubmatch(line); groups != nil {
				return groups
			}
		}
		select {
		case <-p.grown:
		case <-p.ended:
			p.t.Fatalf("it ended with %d and never showed %s", p.code, pattern)
		case <-deadline:
			p.t.Fatalf("it does not show %s", pattern)
		}
	}
}

func (p *process) types(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for its end, and checks its exit code and what it said.
func (p *process) ends(code int, said ...string) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("it does not end")
	}
	if p.code != code {
		p.t.Errorf("it ended with %d, want %d", p.code, code)
	}
	for _, s := range said {
		if !strings.Contains(p.said(), s) {
			p.t.Errorf("it does not say %q", s)
		}
	}
}

// interrupt is Ctrl-C.
func (p *process) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
}

// TestNewcomer follows what the README says: dev, two people who chat in terminals, Ctrl-C, the same command again, and --fresh.
func TestNewcomer(t *testing.T) {
	t.Setenv("TZ", "UTC")
	data := t.TempDir()
	runDev := func(regions string, more ...string) (dev *process, url string) {
		t.Helper()
		dev = launch(t, append([]string{"dev", "--listen", "127.0.0.1:0", "--data", data, "--regions", regions, "--delay", "5ms"}, more...)...)
		dev.shows(`^Antipode is up \(\d+\.\d s\): ` + strings.ReplaceAll(regions, ",", ", ") + `, 5ms apart one way\.$`)
		first, _, _ := strings.Cut(regions, ",")
		url = dev.shows(`^  chat +(http://127\.0\.0\.1:\d+)/\?as=ann&region=` + first + `&to=bob$`)[1]
		dev.shows(`^  console +` + url + `/console$`)
		dev.shows(`^  .* chat --as bob --to ann --dev ` + url + `$`)
		return dev, url
	}
	stop := func(dev *process) {
		t.Helper()
		dev.interrupt()
		dev.ends(0, "draining")
	}
	chat := func(url, as, to string, more ...string) *process {
		t.Helper()
		return launch(t, append([]string{"chat", "--as", as, "--to", to, "--dev", url}, more...)...)
	}
	end := func(p *process) {
		t.Helper()
		p.in.Close()
		p.ends(0)
	}

	dev, url := runDev("eu,us")
	for _, page := range []string{"/?as=ann&region=eu&to=bob", "/console"} {
		response, err := http.Get(url + page)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", page, response.Status)
		}
	}

	// A second one beside it names what is taken.
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	launch(t, "dev", "--listen", "127.0.0.1:"+port, "--data", t.TempDir()).ends(1, "port "+port+" on 127.0.0.1 cannot be used", "--listen")
	launch(t, "dev", "--listen", "127.0.0.1:0", "--data", data, "--regions", "eu,us").ends(1, "data folder "+data, "another antipode dev runs on it", "--data")

	// What one types the other's terminal shows, across regions.
	ann, bob := chat(url, "ann", "bob", "--region", "eu"), chat(url, "bob", "ann", "--region", "us", "--json")
	ann.shows(`connected to gateway \S+ in region eu`)
	bob.shows(`connected to gateway \S+ in region us`)
	ann.types("one")
	bob.shows(`^\d\d:\d\d:\d\d eu +ann: one$`)
	bob.types("two")
	ann.shows(`^\d\d:\d\d:\d\d us +bob: two$`)
	ann.types("three")
	bob.shows(`ann: three`)
	ann.interrupt()
	ann.ends(0)
	end(bob)
	launch(t, "chat", "--as", "ann", "--to", "bob", "--region", "ap", "--dev", url).ends(1, `"ap" is no region of `+url+`: it has eu, us`)
	response, err := http.Get(url + "/dev/token?uid=carl")
	if err != nil {
		t.Fatal(err)
	}
	var carls struct{ Token string }
	err = json.NewDecoder(response.Body).Decode(&carls)
	response.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	chat(url, "ann", "bob", "--token", carls.Token).ends(1, "the token is one of carl: say --as carl, or take a token of ann")
	stop(dev)

	// The same command goes on with the same data.
	dev, url = runDev("eu,us")
	bob = chat(url, "bob", "ann", "--history", "1")
	bob.shows(`ann: three`)
	bob.shows(`bob: two`)
	bob.types("four") // behind whatever is fetched
	bob.shows(`bob: four`)
	end(bob)
	if said := bob.said(); strings.Contains(said, "ann: one") {
		t.Errorf("one older message of each origin was asked for:\n%s", said)
	}
	stop(dev)

	// Other regions need other data, or none.
	launch(t, "dev", "--listen", "127.0.0.1:0", "--data", data, "--regions", "ap").ends(1, "it was made for regions eu,us", "--fresh")
	dev, url = runDev("ap", "--fresh")
	bob = chat(url, "bob", "ann")
	bob.types("five")
	bob.shows(`bob: five`)
	end(bob)
	piped := chat(url, "ann", "bob")
	piped.types("six")
	piped.types("seven")
	end(piped)
	if !strings.Contains(piped.said(), "2 messages sent and acknowledged") {
		t.Errorf("its input ended and it does not say what became of it:\n%s", piped.said())
	}
	for _, forgotten := range []string{"one", "two", "three", "four"} {
		if strings.Contains(bob.said(), ": "+forgotten) {
			t.Errorf("%q was to be forgotten:\n%s", forgotten, bob.said())
		}
	}
	stop(dev)
}

// What is wrong by itself is told before anybody is asked.
func TestChatChecksItsFlags(t *testing.T) {
	asked := make(chan string, 100)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked <- r.URL.Path })}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	for _, c := range []struct{ flags, says string }{
		{"--as a/b --to bob", `--as: uid "a/b"`},
		{"--as ann --to b/b", `--to: uid "b/b"`},
		{"--as ann --group lunch", `--group: conversation "lunch"`},
		{"--as ann --new-group lunch --members bob,c/c", `--members: uid "c/c"`},
		{"--as ann --to bob --ack twice", `--ack "twice"`},
		{"--as ann --to bob --history -1", `--history -1`},
		{"--as ann", "Say one of --to UID, --group ID"},
		{"--as ann --to bob --group g", "Say one of --to UID, --group ID"},
	} {
		cmd := newRootCommand()
		cmd.SetArgs(append([]string{"chat", "--dev", "http://" + listener.Addr().String()}, strings.Fields(c.flags)...))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("chat %s: %v, want %q", c.flags, err, c.says)
		}
	}
	if len(asked) > 0 {
		t.Errorf("%d were asked, the first at %s", len(asked), <-asked)
	}
}
