package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/wire"
)

// pull reads a conversation from a region from the beginning, as a member of it would over HTTP: what may succeed at another
// attempt is tried again.
func (p *crowd) pull(ctx context.Context, r im.Region, c *chat) (checker.Timeline, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		t, err := p.pullOnce(ctx, r, c)
		if _, lasting := errors.AsType[*refusal](err); err == nil || lasting {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, err
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		}
	}
}

func (p *crowd) pullOnce(ctx context.Context, r im.Region, c *chat) (checker.Timeline, error) {
	t := checker.Timeline{Region: r, Conversation: c.conversation}
	base, err := gatewayOf(ctx, p.cluster.IPConf(r), r)
	if err != nil {
		return t, err
	}
	token, _, err := p.cluster.Token(c.members[0].uid)
	if err != nil {
		return t, err
	}
	cursor := ""
	for {
		page, err := pullPage(ctx, base, token, &wire.PullRequest{Conversation: string(c.conversation), Cursor: cursor})
		if err != nil {
			return t, err
		}
		first := len(t.Records)
		for _, rec := range page.Records {
			id, err := wire.RecordID(rec)
			if err != nil {
				return t, err
			}
			s := checker.Sighting{ID: id, Place: wire.RecordPlace(rec)}
			t.Records = append(t.Records, s)
			if im.Kind(rec.Kind) == im.KindMessage {
				t.Shown = append(t.Shown, s)
			}
		}
		for _, rep := range page.Repeats {
			u, err := im.ParseUUID(rep.ClientId)
			if err != nil {
				return t, err
			}
			t.Records = append(t.Records, checker.Sighting{
				ID:    im.ID{Conversation: c.conversation, Sender: im.UID(rep.Sender), ClientID: u},
				Place: im.Place{Stamp: im.Stamp(rep.Stamp), Origin: im.Origin(rep.Origin), Seq: rep.Seq},
			})
		}
		asked, err := im.ParseCursor(cursor)
		if err != nil {
			return t, err
		}
		returned, err := im.ParseCursor(page.Cursor)
		if err != nil {
			return t, err
		}
		t.Pages = append(t.Pages, checker.Page{Asked: asked, Returned: returned, Records: t.Records[first:]})
		if !page.More && page.Cursor == cursor {
			t.Unfinished = len(page.Records)+len(page.Repeats) > 0
			break
		}
		cursor = page.Cursor
	}
	slices.SortFunc(t.Shown, func(a, b checker.Sighting) int { return a.Place.Compare(b.Place) })
	return t, nil
}

// refusal is an answer that says that asking again is no use.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func pullPage(ctx context.Context, base, token string, q *wire.PullRequest) (*wire.PullResponse, error) {
	page := new(wire.PullResponse)
	return page, call(ctx, base, token, wire.MethodPull, q, page)
}

// call asks a gateway over HTTP.
func call(ctx context.Context, base, token, method string, q, a proto.Message) error {
	body, err := proto.Marshal(q)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
			return &refusal{fmt.Sprintf("%s answers %s: %.200s", base, resp.Status, answer)}
		}
		return fmt.Errorf("%s answers %s: %.200s", base, resp.Status, answer)
	}
	return proto.Unmarshal(answer, a)
}

// gatewayOf asks an ipconf for a gateway of a region.
func gatewayOf(ctx context.Context, ipconf string, r im.Region) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ipconf+"/v1/endpoints?region="+string(r), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var list wire.Endpoints
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return "", fmt.Errorf("%s answers %s: %w", ipconf, resp.Status, err)
	}
	for _, g := range list.Gateways {
		if g.Region == r {
			return g.PullURL, nil
		}
	}
	return "", fmt.Errorf("%s names no gateway of %s", ipconf, r)
}
