package demo

import (
	"strings"
	"testing"
	"time"
)

// What cannot be played is told before anything starts.
func TestCheck(t *testing.T) {
	good := Config{PerPair: 10, Users: 5, Group: 3, Length: time.Second, Settle: time.Second}
	if err := good.Check(3); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config) int{
		"1 regions":     func(*Config) int { return 1 },
		"9 regions":     func(*Config) int { return 9 },
		"--messages 5:": func(c *Config) int { c.PerPair = 5; return 3 },
		"--group 2":     func(c *Config) int { c.Group = 2; return 3 },
		"--group -1":    func(c *Config) int { c.Group = -1; return 3 },
		"--users 0":     func(c *Config) int { c.Users = 0; return 3 },
		"--length 0s":   func(c *Config) int { c.Length = 0; return 3 },
		"--settle 0s":   func(c *Config) int { c.Settle = 0; return 3 },
	} {
		c := good
		regions := change(&c)
		if err := c.Check(regions); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error that says %q, got: %v", want, err)
		}
	}
	none := good
	none.Group = 0
	if err := none.Check(3); err != nil {
		t.Errorf("no group: %v", err)
	}
}
