package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
)

// parts is all that runs in dev, and what is wrong with each: empty if nothing is.
func (d *Dev) parts() map[string]string {
	all := map[string]string{"postgres": d.postgresGone()}
	for _, r := range d.all() {
		for _, u := range r.units() {
			all[u.Name] = ""
			if state, why := u.State(); state != UnitUp {
				all[u.Name] = fmt.Sprintf("%s: %v", state, cmp.Or(why, errors.New("nothing more is known")))
			}
		}
	}
	return all
}

// postgresGone says how the server that all regions share ended; empty while it runs.
func (d *Dev) postgresGone() string {
	select {
	case <-d.postgres.Done():
		return fmt.Sprintf("PostgreSQL ended by itself (%v)", cmp.Or(d.postgres.Err(), errors.New("exit status 0")))
	default:
		return ""
	}
}

// mournPostgres tells of its end, if that comes before ctx's. Everything else that ends by itself is started again, and its unit
// tells of it.
func (d *Dev) mournPostgres(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-d.postgres.Done():
		for _, line := range []string{
			d.postgresGone() + "; its log is " + filepath.Join(d.cfg.Data, "postgres", "postgres.log"),
			"  Without it messages are still accepted and go to the other regions, but none is shown or listed, in any region.",
			"  Ctrl-C, and start the same command again: it goes on with the same data, and nothing that was acknowledged is lost.",
		} {
			d.cfg.Progress(line)
		}
		d.log.Error("PostgreSQL ended by itself", "error", d.postgres.Err())
	}
}

// readyz answers as the /readyz of a service does.
func (d *Dev) readyz(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		OK     bool              `json:"ok"`
		Checks map[string]string `json:"checks"`
	}{true, d.parts()}
	for name, wrong := range answer.Checks {
		if wrong == "" {
			answer.Checks[name] = "ok"
		} else {
			answer.OK = false
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}
