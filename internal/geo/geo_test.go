package geo

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/antipode-im/antipode/im"
)

// write makes a database.
func write(t testing.TB, path string, networks map[string]mmdbtype.Map) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for cidr, record := range networks {
		_, network, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, record); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		t.Fatal(err)
	}
}

func place(country string, lat, lon float64) mmdbtype.Map {
	return mmdbtype.Map{
		"country":  mmdbtype.Map{"iso_code": mmdbtype.String(country)},
		"location": mmdbtype.Map{"latitude": mmdbtype.Float64(lat), "longitude": mmdbtype.Float64(lon)},
	}
}

func system(n uint32) mmdbtype.Map {
	return mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(n)}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	cities, systems := filepath.Join(dir, "city.mmdb"), filepath.Join(dir, "asn.mmdb")
	write(t, cities, map[string]mmdbtype.Map{
		"192.0.2.0/24": place("de", 50.1, 8.7), "2001:db8:1::/48": place("US", 39, -77.5),
		"198.51.100.0/24": {"country": mmdbtype.Map{"iso_code": mmdbtype.String("FR")}},
	})
	write(t, systems, map[string]mmdbtype.Map{"192.0.2.0/25": system(64500)})
	d, err := Open(Config{City: cities, ASN: systems})
	if err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[string]im.Location{
		"192.0.2.1":        {Country: "DE", Lat: 50.1, Lon: 8.7, Placed: true, ASN: 64500},
		"::ffff:192.0.2.1": {Country: "DE", Lat: 50.1, Lon: 8.7, Placed: true, ASN: 64500},
		"192.0.2.200":      {Country: "DE", Lat: 50.1, Lon: 8.7, Placed: true},
		"2001:db8:1::9":    {Country: "US", Lat: 39, Lon: -77.5, Placed: true},
		"198.51.100.7":     {Country: "FR"},
		"203.0.113.1":      {},
		"2001:db8:2::1":    {},
	} {
		for range 2 { // the second time from memory
			if got := d.Find(netip.MustParseAddr(ip)); got != want {
				t.Errorf("%s is at %+v, want %+v", ip, got, want)
			}
		}
	}
	if n := testing.AllocsPerRun(100, func() { d.Find(netip.MustParseAddr("192.0.2.1")) }); n > 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}

func TestRefresh(t *testing.T) {
	dir := t.TempDir()
	cities := filepath.Join(dir, "city.mmdb")
	at := netip.MustParseAddr("192.0.2.1")
	write(t, cities, map[string]mmdbtype.Map{"192.0.2.0/24": place("DE", 50, 8)})
	d, err := Open(Config{City: cities})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(why, country string) {
		t.Helper()
		d.Refresh()
		if got := d.Find(at).Country; got != country {
			t.Fatalf("%s: %q, want %q", why, got, country)
		}
	}
	expect("nothing changed", "DE")
	write(t, cities, map[string]mmdbtype.Map{"192.0.2.0/24": place("FR", 48, 2)})
	expect("another file", "FR")
	good, err := os.ReadFile(cities)
	if err != nil {
		t.Fatal(err)
	}
	for why, b := range map[string][]byte{"no database": []byte("none"), "cut short": good[:len(good)/2], "empty": nil} {
		if err := os.WriteFile(cities, b, 0o600); err != nil {
			t.Fatal(err)
		}
		expect(why, "FR")
	}
	if err := os.Remove(cities); err != nil {
		t.Fatal(err)
	}
	expect("gone", "FR")
	write(t, cities, map[string]mmdbtype.Map{"192.0.2.0/24": place("IT", 41, 12)})
	expect("back", "IT")
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.mmdb")
	if err := os.WriteFile(bad, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{ASN: bad}); err == nil || !strings.Contains(err.Error(), "MaxMind's format") {
		t.Fatal(err)
	}
	if _, err := Open(Config{City: bad + ".missing"}); err == nil {
		t.Fatal("a missing file was opened")
	}
}

func BenchmarkFind(b *testing.B) {
	dir := b.TempDir()
	cities, systems := filepath.Join(dir, "city.mmdb"), filepath.Join(dir, "asn.mmdb")
	write(b, cities, map[string]mmdbtype.Map{"192.0.2.0/24": place("de", 50.1, 8.7)})
	write(b, systems, map[string]mmdbtype.Map{"192.0.2.0/25": system(64500)})
	d, err := Open(Config{City: cities, ASN: systems})
	if err != nil {
		b.Fatal(err)
	}
	ip := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		d.Find(ip)
	}
}
