package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/loadgen"
)

// devAPI asks antipode dev, or antipode cluster, what only they tell.
type devAPI struct{ url string }

// devAPIOf returns the API of the cluster that a cluster.yaml describes, or where none is named of dev at url.
func devAPIOf(url, clusterFile string) (devAPI, error) {
	if clusterFile == "" {
		return devAPI{strings.TrimRight(url, "/")}, nil
	}
	plan, err := (&clusterFlags{file: clusterFile}).plan()
	if err != nil {
		return devAPI{}, err
	}
	return devAPI{plan.URL()}, nil
}

func (d devAPI) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("neither antipode dev nor cluster answers at %s (start one with: antipode dev; name another with --dev): %w", d.url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s answers %s", d.url, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// spans returns what the services keep of a trace.
func (d devAPI) spans(ctx context.Context, trace string) ([]loadgen.Span, error) {
	var answer struct {
		Spans []console.Span `json:"spans"`
	}
	if err := d.get(ctx, "/dev/traces/"+url.PathEscape(trace), &answer); err != nil {
		return nil, err
	}
	list := make([]loadgen.Span, len(answer.Spans))
	for i, s := range answer.Spans {
		start := time.UnixMicro(s.StartUS)
		list[i] = loadgen.Span{
			Service: s.Service, Name: s.Name, Region: im.Region(s.Region), To: im.Region(s.Attributes["antipode.to"]),
			Start: start, End: start.Add(time.Duration(s.DurationUS) * time.Microsecond),
		}
	}
	return list, nil
}

// endpoints lists the ipconfs.
func (d devAPI) endpoints(ctx context.Context) ([]console.Endpoint, error) {
	var answer struct {
		Regions []console.Endpoint `json:"regions"`
	}
	err := d.get(ctx, "/dev/endpoints.json", &answer)
	return answer.Regions, err
}

// ipconfs lists the URLs of all ipconfs, those of a region first: they know it best. No region in particular: "".
func (d devAPI) ipconfs(ctx context.Context, region im.Region) ([]string, error) {
	endpoints, err := d.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	var first, others, names []string
	for _, e := range endpoints {
		names = append(names, string(e.Region))
		if e.Region == region {
			first = append(first, e.IPConf)
		} else {
			others = append(others, e.IPConf)
		}
	}
	if region != "" && first == nil {
		return nil, fmt.Errorf("%q is no region of %s: it has %s", region, d.url, strings.Join(names, ", "))
	}
	return append(first, others...), nil
}

// tokens issues a user's tokens.
func (d devAPI) tokens(uid im.UID) client.TokenSource {
	return func(ctx context.Context, _ bool) (string, error) {
		var answer struct {
			Token string `json:"token"`
		}
		err := d.get(ctx, "/dev/token?uid="+url.QueryEscape(string(uid)), &answer)
		return answer.Token, err
	}
}
