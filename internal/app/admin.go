package app

// AdminAddrs returns the host:port of the admin server of every instance, which serves /metrics among others, by region and
// instance: "eu/router".
func (d *Dev) AdminAddrs() map[string]string {
	d.watcher.mu.Lock()
	defer d.watcher.mu.Unlock()
	addrs := make(map[string]string, len(d.watcher.telemetry))
	for name, t := range d.watcher.telemetry {
		addrs[name] = t.AdminAddr()
	}
	return addrs
}
