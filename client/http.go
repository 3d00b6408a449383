package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// caller is a way to a region: a conn, or the HTTP fallback.
type caller interface {
	call(ctx context.Context, method, key string, body []byte) ([]byte, error)
	region() im.Region
}

// fallback calls a region's gateways over HTTP: the first that answers. It serves where a socket cannot: another region's
// side of a gap, a region that a group's id names, a network that breaks sockets.
type fallback struct {
	client *Client
	at     im.Region
	list   []wire.Endpoint
}

const (
	protobufType = "application/x-protobuf"
	maxHTTPBytes = 8 << 20 // of an answer
	maxHTTPTries = 2       // gateways of a region asked by one call
)

// fallbackTo returns the fallback to a region, or to the best gateways of any if r is empty; nil if none is known.
func (c *Client) fallbackTo(r im.Region) *fallback {
	if r == "" && c.endpoints.heldBack() {
		return nil // the old list must not lead where there is no room
	}
	f := &fallback{client: c, at: r}
	for _, e := range c.endpoints.ordered() {
		if e.PullURL == "" || r != "" && e.Region != r {
			continue
		}
		if f.at == "" {
			f.at = e.Region
		}
		f.list = append(f.list, e)
	}
	if len(f.list) == 0 {
		return nil
	}
	return f
}

func (f *fallback) region() im.Region { return f.at }

func (f *fallback) call(ctx context.Context, method, key string, body []byte) ([]byte, error) {
	var errs []error
	refresh := false
	for tries := 0; tries < maxHTTPTries; tries++ {
		e := f.list[tries%len(f.list)]
		b, err := f.post(ctx, e, method, key, body, refresh)
		if err == nil {
			return b, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		known, ok := asError(err)
		switch {
		case ok && known.Code == im.CodeTokenExpired && !refresh:
			refresh, tries = true, tries-1
		case ok && actionOf(err) == im.ActionStop:
			return nil, err
		case !ok:
			f.client.endpoints.failed(e.Key())
		}
		if !refresh && tries+1 >= len(f.list) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (f *fallback) post(ctx context.Context, e wire.Endpoint, method, key string, body []byte, refresh bool) ([]byte, error) {
	token, err := f.client.cfg.Token(ctx, refresh)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	u := strings.TrimSuffix(e.PullURL, "/")
	switch method {
	case wire.MethodSubmit, wire.MethodPull:
		u += "/v1/" + method
	default:
		u += "/v1/call/" + wire.ServiceIM + "/" + method
		if key != "" {
			u += "?key=" + url.QueryEscape(key)
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", protobufType)
	r.Header.Set("Accept", protobufType)
	resp, err := f.client.cfg.HTTP.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxHTTPBytes+1))
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", e.ID, err)
	}
	if len(b) > maxHTTPBytes {
		return nil, fmt.Errorf("gateway %s answered more than %d bytes", e.ID, maxHTTPBytes)
	}
	if resp.StatusCode == http.StatusOK {
		return b, nil
	}
	said, err := decodeHTTPError(resp.Header.Get("Content-Type"), b)
	if err != nil {
		return nil, fmt.Errorf("gateway %s answered %s", e.ID, resp.Status)
	}
	return nil, remoteError(said)
}

// decodeHTTPError reads the error that an HTTP answer carries.
func decodeHTTPError(contentType string, b []byte) (*wire.Error, error) {
	said := new(wire.Error)
	if strings.HasPrefix(contentType, protobufType) {
		if err := wire.Unmarshal(b, said); err != nil {
			return nil, err
		}
	} else {
		var v struct {
			Code         string `json:"code"`
			Detail       string `json:"detail"`
			RetryAfterMs uint32 `json:"retryAfterMs"`
			Action       string `json:"action"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, err
		}
		said.Code, said.Detail, said.RetryAfterMs, said.Action = v.Code, v.Detail, v.RetryAfterMs, v.Action
	}
	if said.Code == "" {
		return nil, errors.New("no code")
	}
	return said, nil
}
