package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// askAdmin asks the admin server of a running service for what only such a one has.
func askAdmin(ctx context.Context, service, u string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("no %s answers (--admin wants its admin address): %w", service, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return b, nil
	}
	var refusal wire.Error
	if json.Unmarshal(b, &refusal) == nil && refusal.GetDetail() != "" {
		err := fmt.Errorf("the %s refuses: %s", service, refusal.GetDetail())
		if resp.StatusCode == http.StatusBadRequest {
			err = misused(err)
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, misused(errors.New("what answers is not the admin server of a running " + service + ": name its admin address with --admin"))
	}
	return nil, fmt.Errorf("the %s answers %s", service, resp.Status)
}
