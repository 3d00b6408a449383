package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newRouterRoutesCommand() *cobra.Command {
	var (
		admin  string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "routes --admin HOST:PORT UID",
		Short: "Ask a running router where a user is connected",
		Long: `Asks the admin server of a running router for the route of each of a user's devices, in whichever region it is, and for
the regions whose routes cannot be counted on now: a user without a route may be connected there. Any router of any region
tells the same, as far as it has heard.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			uid, err := im.ParseUID(args[0])
			if err != nil {
				return misused(err)
			}
			b, err := askAdmin(cmd.Context(), app.ServiceRouter, "http://"+admin+app.RoutesPath+"?"+url.Values{"uid": {string(uid)}}.Encode())
			if err != nil {
				return err
			}
			var r app.UserRoutes
			if err := json.Unmarshal(b, &r); err != nil {
				return fmt.Errorf("the router at %s: %w", admin, err)
			}
			if asJSON {
				_, err = cmd.OutOrStdout().Write(append(b, '\n'))
				return err
			}
			return printRoutes(cmd.OutOrStdout(), &r, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&admin, "admin", "127.0.0.1:7402", "host:port of the router's admin server")
	f.BoolVar(&asJSON, "json", false, "print what it answers")
	return cmd
}

func printRoutes(out io.Writer, r *app.UserRoutes, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	switch {
	case len(r.Devices) > 0:
		fmt.Fprintf(w, "DEVICE\tPLATFORM\tGATEWAY\tCONN\tLOGIN\tCLAIMED\tSOCKET\n")
	case r.Held:
		fmt.Fprintf(w, "%s has no route that counts, as the router of %s has heard; one that does not count is held\n", r.UID, r.Region)
	default:
		fmt.Fprintf(w, "%s has no route, as the router of %s has heard\n", r.UID, r.Region)
	}
	for _, d := range r.Devices {
		socket := "open"
		if d.Offline {
			socket = "lost: it may resume"
		}
		fmt.Fprintf(w, "%s\t%s\t%s/%s\t%d\t%d\t%v ago\t%s\n",
			d.Device, d.Platform, d.Region, d.Gateway, d.Conn, d.Login, max(0, now.Sub(d.Claimed)).Round(time.Second), socket)
	}
	for _, region := range slices.Sorted(slices.Values(r.Unknown)) {
		fmt.Fprintf(w, "unknown: whether %s is connected in %s, whose routes cannot be counted on now\n", r.UID, region)
	}
	return w.Flush()
}
