package main

// rows are the dashboard's content. Whether a region hears, ships, applies and delivers is told from left to right and top to
// bottom as a message goes.
func rows() []row {
	return []row{
		{"Regions", []panel{
			{
				title: "Alerts", text: "Alerts that are firing, by name. docs/runbook.md has a section for each.", now: true, width: 8, warn: 1, alarm: 5, unit: "short",
				queries: []query{{`sum by (alertname) (ALERTS{alertname=~"Antipode.*", alertstate="firing"})`, "{{alertname}}"}},
			},
			{
				title: "Silence", text: "How old what a region knows of an origin is: the age of the last heartbeat applied. Heartbeats come every 5 s, messages or not.",
				unit: "s", warn: 15, alarm: 30,
				queries: []query{{`region_origin_peer:antipode_imserver_silence_seconds:max{region=~"$region"}`, "{{region}} of {{origin}}"}},
			},
			{
				title: "Clocks", text: "How far a peer's clock is ahead of the own. Stamps more than 5 s ahead are refused.", unit: "s", warn: 1, alarm: 2.5,
				queries: []query{
					{`max by (region, peer) (abs(antipode_replicator_clock_offset_seconds{region=~"$region"}))`, "{{region}} and {{peer}}"},
					{`max by (region, instance) (abs(antipode_imserver_clock_ahead_seconds{region=~"$region"}))`, "{{region}} {{instance}} and the median"},
				},
			},
		}},
		{"Messages", []panel{
			{
				title: "Submits", text: "Submits answered, as clients see them, by region.", unit: "reqps",
				queries: []query{{`sum by (region) (rate(antipode_gateway_calls_total{region=~"$region", method="submit"}[$__rate_interval]))`, "{{region}}"}},
			},
			{
				title: "Submits refused, by code", text: "docs/protocol.md says what each code means and what the client does.", unit: "percentunit", alarm: 0.01,
				queries: []query{{`region_code:antipode_gateway_submits:ratio_rate5m{region=~"$region", code!="ok"}`, "{{region}} {{code}}"}},
			},
			{
				title: "Ack", text: "From a submit's arrival at a gateway to its ack.", unit: "s", alarm: 1,
				queries: []query{
					{`region:antipode_gateway_submit_seconds:p99_rate5m{region=~"$region"}`, "{{region}} p99"},
					{`histogram_quantile(0.5, sum by (region, le) (rate(antipode_gateway_call_duration_seconds_bucket{region=~"$region", method="submit"}[$__rate_interval])))`, "{{region}} p50"},
				},
			},
			{
				title: "Append", text: "Until the log has it with acks=all, 99 %, by lane.", unit: "s", alarm: 0.5,
				queries: []query{{`region_lane:antipode_imserver_append_seconds:p99_rate5m{region=~"$region"}`, "{{region}} {{lane}}"}},
			},
			{
				title: "Calls", text: "All calls of clients, by method.", unit: "reqps",
				queries: []query{{`sum by (region, method) (rate(antipode_gateway_calls_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{method}}"}},
			},
			{
				title: "Calls, 99 %", text: "From a call's start to its backend's answer, by method.", unit: "s",
				queries: []query{{`histogram_quantile(0.99, sum by (region, method, le) (rate(antipode_gateway_call_duration_seconds_bucket{region=~"$region"}[$__rate_interval])))`, "{{region}} {{method}}"}},
			},
		}},
		{"Links", []panel{
			{
				title: "Lag of each link, now", text: "How far the copy is behind the log, the worst lane. Green: under 5 s.", unit: "s", now: true, width: 16, warn: 5, alarm: 30,
				queries: []query{{`max by (region, peer) (region_peer_lane:antipode_replicator_lag_age_seconds:max{region=~"$region"})`, "{{peer}} → {{region}}"}},
			},
			{
				title: "Links closed, partitions refused", text: "0 is right.", unit: "short", now: true, alarm: 1,
				queries: []query{
					{`1 - region_peer:antipode_replicator_link_open:max{region=~"$region"}`, "closed: {{peer}} → {{region}}"},
					{`max by (peer, at) (antipode_replicator_partitions_refused{region=~"$region"})`, "refused: {{peer}} → {{at}}"},
				},
			},
			{
				title: "Heartbeats over links, 99 %", text: "From their writing to their being read from the copy.", unit: "s", warn: 1, alarm: 5,
				queries: []query{{`histogram_quantile(0.99, sum by (region, peer, le) (rate(antipode_replicator_canary_seconds_bucket{region=~"$region"}[$__rate_interval])))`, "{{peer}} → {{region}}"}},
			},
			{
				title: "Lag, seconds", text: "By lane.", unit: "s", warn: 5, alarm: 30,
				queries: []query{{`region_peer_lane:antipode_replicator_lag_age_seconds:max{region=~"$region"}`, "{{peer}} → {{region}} {{lane}}"}},
			},
			{
				title: "Lag, records", text: "Records of a peer's log that the copy lacks, by lane.", unit: "short",
				queries: []query{{`region_peer_lane:antipode_replicator_lag:max{region=~"$region"}`, "{{peer}} → {{region}} {{lane}}"}},
			},
			{
				title: "Not held by a peer", text: "Records of the own log that a peer does not hold: what the loss of this region's disks would lose, if no other peer has it.", unit: "short",
				queries: []query{{`min by (region, peer) (antipode_replicator_behind{region=~"$region"})`, "{{region}} → {{peer}}"}},
			},
			{
				title: "Shipped, records", text: "Sent to a peer (out), appended to the copy of its log (in).", unit: "cps",
				queries: []query{{`sum by (region, peer, direction) (rate(antipode_replicator_shipped_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{direction}} {{peer}}"}},
			},
			{
				title: "Shipped, bytes", text: "Before compression.", unit: "Bps",
				queries: []query{{`sum by (region, peer, direction) (rate(antipode_replicator_shipped_size_bytes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{direction}} {{peer}}"}},
			},
			{
				title: "Faults", text: "Links opened again, partitions asked for again, gaps, failed appends to copies, records skipped.", unit: "cps",
				queries: []query{
					{`sum by (region, peer) (rate(antipode_replicator_link_opens_total{region=~"$region"}[$__rate_interval]))`, "opened {{peer}} → {{region}}"},
					{`sum by (region, peer) (rate(antipode_replicator_seeks_total{region=~"$region"}[$__rate_interval]))`, "asked again by {{peer}} of {{region}}"},
					{`sum by (region, peer) (rate(antipode_replicator_gaps_total{region=~"$region"}[$__rate_interval]))`, "gaps {{peer}} → {{region}}"},
					{`sum by (region, peer) (rate(antipode_replicator_append_failures_total{region=~"$region"}[$__rate_interval]))`, "appends {{peer}} → {{region}}"},
					{`sum by (region, peer) (rate(antipode_replicator_skipped_total{region=~"$region"}[$__rate_interval]))`, "skipped {{peer}} → {{region}}"},
				},
			},
		}},
		{"Apply", []panel{
			{
				title: "Applied", text: "Records applied, by origin: every region applies what every other does.", unit: "cps",
				queries: []query{{`region_origin:antipode_imserver_applied:rate5m{region=~"$region"}`, "{{region}} of {{origin}}"}},
			},
			{
				title: "Age when applied", text: "Of the oldest record in the last batch, by origin: it holds its value while nothing comes.", unit: "s", alarm: 15,
				queries: []query{{`max by (region, origin) (antipode_imserver_lag_seconds{region=~"$region"})`, "{{region}} of {{origin}}"}},
			},
			{
				title: "Commit", text: "Time for a batch to be in the timelines (PostgreSQL).", unit: "s",
				queries: []query{
					{`histogram_quantile(0.99, sum by (region, le) (rate(antipode_imserver_commit_seconds_bucket{region=~"$region"}[$__rate_interval])))`, "{{region}} p99"},
					{`sum by (region) (rate(antipode_imserver_commit_seconds_sum{region=~"$region"}[$__rate_interval])) / sum by (region) (rate(antipode_imserver_commit_seconds_count{region=~"$region"}[$__rate_interval]))`, "{{region}} mean"},
				},
			},
			{
				title: "Gaps and halts", text: "Gaps met in 10 minutes; partitions halted now. 0 is right.", unit: "short", now: true, alarm: 1,
				queries: []query{
					{`sum by (region, origin) (increase(antipode_imserver_gaps_total{region=~"$region"}[10m]))`, "gaps: {{region}} of {{origin}}"},
					{`sum by (region, origin) (antipode_imserver_halted_partitions{region=~"$region"})`, "halted: {{region}} of {{origin}}"},
				},
			},
			{
				title: "Partitions owned", text: "Over those there are: 100 % is right.", unit: "percentunit",
				queries: []query{{`region_service:antipode_partitions_owned:ratio{region=~"$region", service=~"$service"}`, "{{region}} {{service}}"}},
			},
			{
				title: "Deliver", text: "Deliveries that routers took, pushes they made of them, and deliveries they did not take in time.", unit: "cps",
				queries: []query{
					{`sum by (region) (rate(antipode_imserver_deliveries_total{region=~"$region"}[$__rate_interval]))`, "{{region}} deliveries"},
					{`sum by (region) (rate(antipode_imserver_pushes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} pushes"},
					{`sum by (region) (rate(antipode_imserver_deliveries_lost_total{region=~"$region"}[$__rate_interval]))`, "{{region}} lost"},
					{`sum by (region) (rate(antipode_imserver_fenced_total{region=~"$region"}[$__rate_interval]))`, "{{region}} batches fenced"},
				},
			},
		}},
		{"Routes", []panel{
			{
				title: "Routes", text: "Routes that the routers of a region hold, by the region they are of.", unit: "short",
				queries: []query{{`max by (region, of_region) (antipode_router_routes{region=~"$region"})`, "{{region}} of {{of_region}}"}},
			},
			{
				title: "Claims", text: "Answered, by code.", unit: "cps",
				queries: []query{{`sum by (region, code) (rate(antipode_router_claims_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{code}}"}},
			},
			{
				title: "Regions cut off", text: "Partitions of a region's routes that do not count, and 1 for a region that came and went too often to count.", unit: "short",
				queries: []query{
					{`max by (region, of_region) (antipode_router_regions_cut{region=~"$region"})`, "{{region}} of {{of_region}}: partitions"},
					{`max by (region, of_region) (antipode_router_regions_damped{region=~"$region"})`, "{{region}} of {{of_region}}: held down"},
					{`sum by (region, of_region) (increase(antipode_router_region_flaps_total{region=~"$region"}[10m]))`, "{{region}} of {{of_region}}: flaps in 10 minutes"},
				},
			},
			{
				title: "Route logs", text: "Records not read yet, and the time since an origin's last, by origin.", unit: "short",
				queries: []query{
					{`max by (region, origin) (antipode_router_lag{region=~"$region"})`, "{{region}} of {{origin}}: records"},
					{`region_origin_peer:antipode_router_silence_seconds:max{region=~"$region"}`, "{{region}} of {{origin}}: seconds"},
				},
			},
			{
				title: "Gateways", text: "Attached to the router that has the fewest, and those that run.", unit: "short",
				queries: []query{
					{`min by (region) (antipode_router_gateways{region=~"$region"})`, "{{region}} attached"},
					{`count by (region) (antipode_gateway_conns{region=~"$region"})`, "{{region}} running"},
				},
			},
			{
				title: "Pushes and notifies", text: "Pushes queued for sockets and lost, by reason; deliveries told to other regions, told by them, and dropped.", unit: "cps",
				queries: []query{
					{`sum by (region) (rate(antipode_router_pushes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} pushes"},
					{`sum by (region, reason) (rate(antipode_router_pushes_lost_total{region=~"$region"}[$__rate_interval]))`, "{{region}} lost: {{reason}}"},
					{`sum by (region, peer) (rate(antipode_router_notifies_total{region=~"$region"}[$__rate_interval]))`, "{{region}} notifies {{peer}}"},
					{`sum by (region, peer) (rate(antipode_router_notifies_received_total{region=~"$region"}[$__rate_interval]))`, "{{region}} notified by {{peer}}"},
					{`sum by (region, peer) (rate(antipode_router_notifies_dropped_total{region=~"$region"}[$__rate_interval]))`, "{{region}} dropped for {{peer}}"},
					{`sum by (region, peer) (rate(antipode_replicator_notifies_dropped_total{region=~"$region"}[$__rate_interval]))`, "{{region}} dropped on the link of {{peer}}"},
				},
			},
			{
				title: "Events", text: "In 10 minutes: gateway_down records, kicks, route logs jumped, Redis given up on, records skipped.", unit: "short",
				queries: []query{
					{`sum by (region) (increase(antipode_router_gateway_down_total{region=~"$region"}[10m]))`, "{{region}} gateway_down"},
					{`sum by (region, code) (increase(antipode_router_kicks_total{region=~"$region"}[10m]))`, "{{region}} kicks: {{code}}"},
					{`sum by (region, origin) (increase(antipode_router_jumps_total{region=~"$region"}[10m]))`, "{{region}} jumps of {{origin}}"},
					{`sum by (region) (increase(antipode_router_store_errors_total{region=~"$region"}[10m]))`, "{{region}} Redis"},
					{`sum by (region, origin) (increase(antipode_router_records_skipped_total{region=~"$region"}[10m]))`, "{{region}} skipped of {{origin}}"},
				},
			},
		}},
		{"Gateways", []panel{
			{
				title: "Conns and sessions", text: "Sockets; logins, the resume window included.", unit: "short",
				queries: []query{
					{`sum by (region, instance) (antipode_gateway_conns{region=~"$region"})`, "{{region}} {{instance}} conns"},
					{`sum by (region, instance) (antipode_gateway_sessions{region=~"$region"})`, "{{region}} {{instance}} sessions"},
				},
			},
			{
				title: "Logins", text: "By code; resumes by outcome.", unit: "cps",
				queries: []query{
					{`sum by (region, code) (rate(antipode_gateway_logins_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{code}}"},
					{`sum by (region, outcome) (rate(antipode_gateway_resumes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} resumes: {{outcome}}"},
				},
			},
			{
				title: "Pushes written", text: "To sockets.", unit: "cps",
				queries: []query{{`sum by (region, instance) (rate(antipode_gateway_pushes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{instance}}"}},
			},
			{
				title: "Sheds", text: "Refused or dropped because of a limit, by reason. behind and slow are pushes to slow consumers.", unit: "cps",
				queries: []query{{`sum by (region, reason) (rate(antipode_gateway_sheds_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{reason}}"}},
			},
			{
				title: "Closes", text: "Connections closed by gateways, by code; epochs fenced.", unit: "cps",
				queries: []query{
					{`sum by (region, code) (rate(antipode_gateway_closes_total{region=~"$region"}[$__rate_interval])) > 0`, "{{region}} {{code}}"},
					{`sum by (region, instance) (rate(antipode_gateway_fences_total{region=~"$region"}[$__rate_interval]))`, "{{region}} {{instance}} fenced"},
				},
			},
			{
				title: "Traffic", text: "Of messages from and to clients.", unit: "Bps",
				queries: []query{
					{`sum by (region) (rate(antipode_gateway_received_bytes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} received"},
					{`sum by (region) (rate(antipode_gateway_sent_bytes_total{region=~"$region"}[$__rate_interval]))`, "{{region}} sent"},
				},
			},
		}},
		{"IPConf", []panel{
			{
				title: "Answers", text: "Lists handed out, by the region of their first gateway. none: there was nothing to hand out.", unit: "reqps",
				queries: []query{{`sum by (region, of_region) (rate(antipode_ipconf_answers_total{region=~"$region"}[$__rate_interval]))`, "{{region}} to {{of_region}}"}},
			},
			{
				title: "Told to wait, told nothing new", text: "Clients told to come back later since room is scarce, and those whose list was still good; catalogues signed.", unit: "reqps",
				queries: []query{
					{`sum by (region) (rate(antipode_ipconf_told_to_wait_total{region=~"$region"}[$__rate_interval]))`, "{{region}} wait"},
					{`sum by (region) (rate(antipode_ipconf_unchanged_total{region=~"$region"}[$__rate_interval]))`, "{{region}} unchanged"},
					{`sum by (region) (rate(antipode_ipconf_catalogues_signed_total{region=~"$region"}[$__rate_interval]))`, "{{region}} signed"},
				},
			},
			{
				title: "Gateways known", text: "As each region's ipconf sees them, by state.", unit: "short",
				queries: []query{{`max by (region, of_region, state) (antipode_ipconf_gateways{region=~"$region"})`, "{{region}} of {{of_region}}: {{state}}"}},
			},
			{
				title: "Discovery", text: "Time since discovery last told a change of a region (calm is no fault), and readings held back in 10 minutes.", unit: "s",
				queries: []query{
					{`max by (region, of_region) (antipode_ipconf_catalogue_age_seconds{region=~"$region"})`, "{{region}} of {{of_region}}"},
					{`sum by (region, of_region) (increase(antipode_ipconf_held_back_total{region=~"$region"}[10m]))`, "{{region}} held back of {{of_region}}"},
				},
			},
		}},
		{"Instances", []panel{
			{
				title: "CPU", unit: "short", text: "Cores used.",
				queries: []query{{`rate(process_cpu_seconds_total{region=~"$region", service=~"$service"}[$__rate_interval])`, "{{region}} {{instance}}"}},
			},
			{
				title: "Memory", unit: "bytes", text: "Resident.",
				queries: []query{{`process_resident_memory_bytes{region=~"$region", service=~"$service"}`, "{{region}} {{instance}}"}},
			},
			{
				title: "Goroutines", unit: "short",
				queries: []query{{`go_goroutines{region=~"$region", service=~"$service"}`, "{{region}} {{instance}}"}},
			},
		}},
	}
}
