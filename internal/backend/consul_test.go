package backend

import (
	"slices"
	"testing"
	"time"
)

func TestConsulSettings(t *testing.T) {
	wan := []string{"127.0.0.11:8302", "127.0.0.12:8302"}
	c := NewConsul(ConsulConfig{Dir: "/d", Host: "127.0.0.11", Datacenter: "eu", WAN: wan, LAN: []string{"127.0.0.11:8301"}})
	s := c.settings()
	if got := s["retry_join_wan"].([]string); !slices.Equal(got, wan[1:]) {
		t.Errorf("it joins %v", got)
	}
	if got := s["retry_join"].([]string); len(got) != 0 {
		t.Errorf("it joins itself: %v", got)
	}
	if s["node_name"] != "eu-127-0-0-11" || s["bootstrap_expect"] != 1 || s["server"] != true {
		t.Errorf("%v", s)
	}
	s = NewConsul(ConsulConfig{Dir: "/d", Host: "127.0.0.13", Datacenter: "eu", Client: true, LAN: []string{"127.0.0.11:8301"}}).settings()
	if got := s["retry_join"].([]string); !slices.Equal(got, []string{"127.0.0.11:8301"}) {
		t.Errorf("the client joins %v", got)
	}
	if s["server"] != false || s["bootstrap_expect"] != nil || s["retry_join_wan"] != nil {
		t.Errorf("a client with a server's settings: %v", s)
	}
	limit, err := time.ParseDuration(s["limits"].(settings)["rpc_client_timeout"].(string))
	if err != nil || limit > 5*time.Second { // Consul tries again 15 to 30 s later: twice that is what TestLoseAgent waits at most
		t.Errorf("an agent waits %v for a server that hangs, %v", limit, err)
	}
}

func TestSecureConsulSettings(t *testing.T) {
	c := NewConsul(ConsulConfig{Dir: "/d", Host: "127.0.0.12", Datacenter: "us", Secure: &ConsulSecurity{
		Cert: "/k/us.pem", Key: "/k/us-key.pem", ClientCA: "/k/ca.pem", Token: "all", Primary: "eu",
	}})
	s := c.settings()
	if s["ports"].(settings)["https"] != 8501 || c.SecureAddr() != "127.0.0.12:8501" {
		t.Errorf("it serves HTTPS at %v, and says %s", s["ports"], c.SecureAddr())
	}
	https := s["tls"].(settings)["https"].(settings)
	if https["verify_incoming"] != true || https["ca_file"] != "/k/ca.pem" {
		t.Errorf("it asks for no certificate: %v", https)
	}
	if acl := s["acl"].(settings); acl["default_policy"] != "deny" || s["primary_datacenter"] != "eu" {
		t.Errorf("it asks for no token: %v", acl)
	}
	s = NewConsul(ConsulConfig{Dir: "/d", Host: "127.0.0.11", Datacenter: "eu"}).settings()
	if s["ports"].(settings)["https"] != -1 || s["acl"] != nil || s["tls"] != nil {
		t.Errorf("one that is open to everybody: %v", s)
	}
}

func TestConsulRefuses(t *testing.T) {
	wantError(t, NewConsul(ConsulConfig{Name: "eu/consul", Dir: t.TempDir()}).Prepare(t.Context()), "eu/consul: it was given no datacenter")
}
