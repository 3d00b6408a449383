package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newIPConfExplainCommand() *cobra.Command {
	var (
		admin  string
		asJSON bool
		client = map[string]*string{}
	)
	cmd := &cobra.Command{
		Use:   "explain --admin HOST:PORT [--uid UID] [--ip ADDRESS]",
		Short: "Ask a running ipconf why each gateway ranks where it does, for a client",
		Long: `Asks the admin server of a running ipconf what it knows of a client's location, how each region looks to it, and what each
gateway's score is made of. It is one draw of many: the weights say how often a gateway comes first. Nobody is counted in.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkExplained(*client["ip"], *client["rtt"]); err != nil {
				return misused(err)
			}
			q := url.Values{}
			for name, value := range client {
				if *value != "" {
					q.Set(name, *value)
				}
			}
			b, err := askAdmin(cmd.Context(), app.ServiceIPConf, "http://"+admin+app.ExplainPath+"?"+q.Encode())
			if err != nil {
				return err
			}
			var e app.IPConfExplanation
			if err := json.Unmarshal(b, &e); err != nil {
				return fmt.Errorf("the ipconf at %s: %w", admin, err)
			}
			if err := checkRegions(&e, *client["region"], *client["home"], *client["rtt"]); err != nil {
				return misused(err)
			}
			if asJSON {
				_, err = cmd.OutOrStdout().Write(append(b, '\n'))
				return err
			}
			return printExplanation(cmd.OutOrStdout(), &e)
		},
	}
	f := cmd.Flags()
	f.StringVar(&admin, "admin", "127.0.0.1:7402", "host:port of the ipconf's admin server")
	f.BoolVar(&asJSON, "json", false, "print what it answers")
	for _, p := range [][2]string{
		{"uid", "of the user"},
		{"ip", "of the client"},
		{"platform", "ios, android, web or desktop"},
		{"network", "wifi, cell, 2g…"},
		{"region", "that the client asks for"},
		{"home", "region in which the user is at home"},
		{"last", "gateway used last, as region/id"},
		{"rtt", "round trips that it measured, as in eu:23,us:110"},
	} {
		client[p[0]] = f.String(p[0], "", p[1])
	}
	return cmd
}

// checkExplained looks at what an ipconf would pass over in silence: it takes what clients say as hints.
func checkExplained(ip, rtt string) error {
	if ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("--ip %q: want an address, such as 192.0.2.1 or 2001:db8::1", ip)
		}
	}
	if rtt == "" {
		return nil
	}
	for part := range strings.SplitSeq(rtt, ",") {
		region, ms, _ := strings.Cut(part, ":")
		_, unnamed := im.ParseRegion(region)
		if _, err := strconv.ParseUint(ms, 10, 16); err != nil || unnamed != nil {
			return fmt.Errorf("--rtt %q: %q is not a region and its milliseconds: want them as in eu:23,us:110", rtt, part)
		}
	}
	return nil
}

// checkRegions tells which region that is named is none that the ipconf knows: it would have passed it over.
func checkRegions(e *app.IPConfExplanation, want, home, rtt string) error {
	known := make([]im.Region, 0, len(e.Regions))
	for i := range e.Regions {
		known = append(known, e.Regions[i].Region)
	}
	check := func(flag, name string) error {
		if name == "" || slices.Contains(known, im.Region(name)) {
			return nil
		}
		return fmt.Errorf("--%s: the ipconf in %s knows no region %q: it knows %v", flag, e.Region, name, known)
	}
	errs := []error{check("region", want), check("home", home)}
	for part := range strings.SplitSeq(rtt, ",") {
		region, _, _ := strings.Cut(part, ":")
		errs = append(errs, check("rtt", region))
	}
	return cmp.Or(errs...)
}

func printExplanation(out io.Writer, e *app.IPConfExplanation) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "ipconf of %s\n", e.Region)
	for _, line := range e.Location {
		fmt.Fprintf(w, "  %s\n", line)
	}
	fmt.Fprintf(w, "room: %.0f %% free, %.0f %% of newcomers are told to wait, %.0f a second are let in here\n",
		100*e.Room.Free, 100*e.Room.ToldLater, e.Room.PerSecond)
	fmt.Fprintf(w, "\nREGION\tRTT\tPROXIMITY\tSHARE\tRAMP\tFREE\tTAKES\tGATEWAYS\tCATALOGUE\t\n")
	for i, r := range e.Regions {
		age := "never read"
		if i < len(e.Catalogs) && e.Catalogs[i].Known {
			age = fmt.Sprintf("%v old", (time.Duration(e.Catalogs[i].AgeMs) * time.Millisecond).Round(100*time.Millisecond))
			if e.Catalogs[i].Held {
				age += ", held back"
			}
		}
		fmt.Fprintf(w, "%s\t%d ms\t%.2f\t%.2f\t%.2f\t%.0f %%\t%.0f %%\t%d\t%s\t%s\n",
			r.Region, r.RTTMs, r.Proximity, r.Share, r.Ramp, 100*r.Free, 100*r.Open, r.Usable, age, r.Closed)
	}
	fmt.Fprintf(w, "\nGATEWAY\tSCORE\tWHY\tWEIGHT\tROOM\tCPU\tNET\tSOUND\tSTART\tVERSION\tCONNS\tCOMING\tAGE\n")
	for _, g := range append(e.Ranked, e.LeftOut...) {
		age := "never heard"
		if g.AgeMs >= 0 {
			age = fmt.Sprintf("%d ms", g.AgeMs)
		}
		fmt.Fprintf(w, "%s/%s\t%.3f\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f %s\t%d/%d\t%.0f\t%s\n",
			g.Region, g.Gateway, g.Score, g.Why, g.Weight, g.Factors.Room, g.Factors.CPU, g.Factors.Net, g.Factors.Sound,
			g.Factors.Start, g.Factors.Version, g.Version, g.Conns, g.Capacity, g.InFlight, age)
	}
	return w.Flush()
}
