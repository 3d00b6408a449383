package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// orderTimeout bounds an order, however long its members take; addTimeout the adding of a region.
const (
	orderTimeout = 3 * time.Minute
	addTimeout   = 15 * time.Minute
)

// readyEvery is how often Remote.WaitReady looks.
const readyEvery = 200 * time.Millisecond

// Members are what orders over HTTP are given to.
type Members interface {
	Status() []Status
	Links() []LinkStatus
	Kill(ctx context.Context, target string) error
	Stop(ctx context.Context, target string) error
	Start(ctx context.Context, target string) error
	Restart(ctx context.Context, target string) error
	Pause(ctx context.Context, target string) error
	Resume(ctx context.Context, target string) error
	Wipe(ctx context.Context, target string) error
	Clock(ctx context.Context, target string, offset time.Duration) error
}

// Regions adds regions to those that run.
type Regions interface {
	// AddRegion returns when the region serves. It tells what is going on, a line at a time.
	AddRegion(ctx context.Context, r Region, progress func(string)) error
}

// Handler serves orders: GET /cluster/ps.json, POST /cluster/down, POST /cluster/members/{order}?target=, POST
// /cluster/clocks?target=&offset= and POST /cluster/regions. It guards nothing: put it behind what keeps other sites' pages out.
// down must return at once.
func Handler(m Members, regions Regions, down func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cluster/regions", func(w http.ResponseWriter, r *http.Request) { addRegion(w, r, regions) })
	mux.HandleFunc("GET /cluster/ps.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(PS{m.Status(), m.Links()}) // the reader went away: nobody to tell
	})
	mux.HandleFunc("POST /cluster/down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		down()
	})
	mux.HandleFunc("POST /cluster/members/{order}", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), orderTimeout)
		defer cancel()
		do, ok := map[string]func(context.Context, string) error{
			"kill": m.Kill, "stop": m.Stop, "start": m.Start, "restart": m.Restart, "pause": m.Pause, "resume": m.Resume, "wipe": m.Wipe,
		}[r.PathValue("order")]
		if !ok {
			refuse(w, http.StatusNotFound, fmt.Sprintf("order %q: want kill, stop, start, restart, pause, resume or wipe", r.PathValue("order")))
			return
		}
		answer(w, do(ctx, r.URL.Query().Get("target")))
	})
	mux.HandleFunc("POST /cluster/clocks", func(w http.ResponseWriter, r *http.Request) {
		offset, err := time.ParseDuration(r.URL.Query().Get("offset"))
		if err != nil {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("offset: %v", err))
			return
		}
		answer(w, m.Clock(r.Context(), r.URL.Query().Get("target"), offset))
	})
	return mux
}

// told is a line of the answer to the adding of a region: the last one says that it is done, or what went wrong.
type told struct {
	Progress string `json:"progress,omitempty"`
	Error    string `json:"error,omitempty"`
	Done     bool   `json:"done,omitempty"`
}

// addRegion answers with a line for each thing that is going on: it takes a while. Who goes away gives it up.
func addRegion(w http.ResponseWriter, r *http.Request, regions Regions) {
	var region Region
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&region); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("region: %v", err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), addTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	var mu sync.Mutex
	say := func(t told) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(t) // the reader went away: ctx ends
		_ = http.NewResponseController(w).Flush()
	}
	if err := regions.AddRegion(ctx, region, func(line string) { say(told{Progress: line}) }); err != nil {
		say(told{Error: err.Error()})
		return
	}
	say(told{Done: true})
}

// answer tells how an order went.
func answer(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrUnknown):
		refuse(w, http.StatusNotFound, err.Error())
	case err != nil:
		refuse(w, http.StatusConflict, err.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// PS is the answer of GET /cluster/ps.json.
type PS struct {
	Members []Status     `json:"members"`
	Links   []LinkStatus `json:"links"`
}

// Remote gives orders to a running cluster over HTTP.
type Remote struct {
	URL    string
	Header string // set to 1 on every order, as the guard wants it
}

// Find returns the running cluster of a data folder. If none runs the error wraps ErrNotRunning.
func Find(data, header string) (*Remote, error) {
	if _, held := Locked(data); !held {
		return nil, fmt.Errorf("%w on %s: start it with antipode cluster up", ErrNotRunning, data)
	}
	c, err := readControl(data)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the cluster on %s is only beginning to start, or stopping: try again", data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(data, controlFile), err)
	}
	return &Remote{URL: c.URL, Header: header}, nil
}

// PS asks what runs.
func (r *Remote) PS(ctx context.Context) (PS, error) {
	var ps PS
	body, err := r.call(ctx, http.MethodGet, "/cluster/ps.json")
	if err == nil {
		err = json.Unmarshal(body, &ps)
	}
	return ps, err
}

// Down asks the cluster to stop everything and end. It does not wait for that.
func (r *Remote) Down(ctx context.Context) error {
	_, err := r.call(ctx, http.MethodPost, "/cluster/down")
	return err
}

// Order gives members an order (kill, stop, start, restart, pause, resume) and returns when it is carried out.
func (r *Remote) Order(ctx context.Context, order, target string) error {
	_, err := r.call(ctx, http.MethodPost, "/cluster/members/"+order+"?target="+url.QueryEscape(target))
	return err
}

// Clock puts the clocks of imservers off; 0 sets them right.
func (r *Remote) Clock(ctx context.Context, target string, offset time.Duration) error {
	_, err := r.call(ctx, http.MethodPost, "/cluster/clocks?target="+url.QueryEscape(target)+"&offset="+offset.String())
	return err
}

// AddRegion starts a region beside those that run and returns when it serves. Of r only the name need be set.
func (r *Remote) AddRegion(ctx context.Context, region Region, progress func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, addTimeout+time.Minute)
	defer cancel()
	text, err := json.Marshal(region)
	if err != nil {
		return err
	}
	resp, err := r.send(ctx, http.MethodPost, "/cluster/regions", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var t told
		switch err := lines.Decode(&t); {
		case err != nil:
			return fmt.Errorf("the cluster's answer broke off; look how region %s is (antipode cluster ps), and run the same command again: %w", region.Name, err)
		case t.Error != "":
			return errors.New(t.Error)
		case t.Done:
			return nil
		}
		progress(t.Progress)
	}
}

// WaitReady returns when every member is ready, or says which is not.
func (r *Remote) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		ps, err := r.PS(ctx)
		waiting := ""
		for _, m := range ps.Members {
			if !m.Ready {
				waiting = fmt.Sprintf("%s is %s: %s", m.Name, m.State, m.Why)
				break
			}
		}
		if err == nil && waiting == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the cluster is not ready: %s", waiting), err, ctx.Err())
		}
	}
}

// Cut stops a link.
func (r *Remote) Cut(ctx context.Context, from, to im.Region) error {
	return r.link(ctx, from, to, "cut")
}

// Heal lets it carry again.
func (r *Remote) Heal(ctx context.Context, from, to im.Region) error {
	return r.link(ctx, from, to, "heal")
}

// Delay sets its one-way delay.
func (r *Remote) Delay(ctx context.Context, from, to im.Region, d time.Duration) error {
	return r.link(ctx, from, to, "delay?ms="+strconv.FormatInt(d.Milliseconds(), 10))
}

func (r *Remote) link(ctx context.Context, from, to im.Region, order string) error {
	_, err := r.call(ctx, http.MethodPost, "/dev/links/"+url.PathEscape(string(from))+"/"+url.PathEscape(string(to))+"/"+order)
	return err
}

func (r *Remote) call(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	resp, err := r.send(ctx, method, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return r.read(resp)
}

// send gives an order. An answer that is none is an error.
func (r *Remote) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.URL+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set(r.Header, "1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the cluster does not answer: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := r.read(resp)
	if err != nil {
		return nil, err
	}
	var refusal struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &refusal) == nil && refusal.Error != "" {
		return nil, errors.New(refusal.Error)
	}
	return nil, fmt.Errorf("the cluster answers %s: %s", resp.Status, strings.TrimSpace(string(text)))
}

func (r *Remote) read(resp *http.Response) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("the cluster's answer broke off: %w", err)
	}
	return text, nil
}
