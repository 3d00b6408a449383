package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/antipode-im/antipode/internal/process"
)

// service is a service of Antipode as a Server.
type service struct {
	plan   MemberPlan
	binary atomic.Pointer[string]
	env    []string
}

func newService(plan MemberPlan, binary string, env []string) *service {
	s := &service{plan: plan, env: env}
	s.binary.Store(&binary)
	return s
}

// Name implements Server.
func (s *service) Name() string { return s.plan.Name }

// Prepare implements Server: its files were written when the cluster began.
func (s *service) Prepare(context.Context) error {
	if _, err := os.Stat(s.plan.Config); err != nil {
		return fmt.Errorf("%s: its configuration: %w", s.plan.Name, err)
	}
	return nil
}

// Spec implements Server.
func (s *service) Spec() process.Spec {
	return process.Spec{
		Name: s.plan.Name, Path: *s.binary.Load(), Args: []string{s.plan.Kind, "--config", s.plan.Config},
		Env: s.env, Signal: syscall.SIGTERM,
	}
}

// Ready implements Server: it asks /readyz.
func (s *service) Ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.plan.Admin+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return quiet(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var answer struct {
		Checks map[string]string `json:"checks"`
	}
	var failed []string
	if json.Unmarshal(body, &answer) == nil {
		for _, name := range slices.Sorted(maps.Keys(answer.Checks)) {
			if why := answer.Checks[name]; why != "ok" {
				failed = append(failed, name+": "+why)
			}
		}
	}
	if failed == nil {
		return fmt.Errorf("/readyz answers %s", resp.Status)
	}
	return errors.New(strings.Join(failed, "; "))
}

// quiet shortens an error of a call to a server that does not answer: who reads it knows where it went.
func quiet(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && errors.Is(e.Err, syscall.ECONNREFUSED) {
		return errors.New("does not listen yet")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("does not answer")
	}
	return err
}

// environment is this process's without what configures services: their files do, alone. A service uses its region's share of
// the processors, at least one, unless the environment says otherwise: many runtimes that each look for work on all of them spend
// much of them on looking.
func environment(processors, regions int) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ANTIPODE_") })
	if os.Getenv(procs) == "" {
		env = append(env, procs+"="+strconv.Itoa(max(1, processors/regions)))
	}
	return env
}

// procs is the variable that tells Go how many processors to use.
const procs = "GOMAXPROCS"
