package config

import (
	"fmt"
	"os"
	"reflect"
)

// Problem is one thing that is wrong with a file: the path of a key, and what.
type Problem struct{ Key, Text string }

// ReadFile reads a YAML file (none if path is empty) and then set (path of a key to its value) over what into, a pointer
// to a struct with yaml tags, holds already. It is as strict as Load: an unknown key, a key that is set twice or a value of
// the wrong kind is an error that names the key and its line. check may be nil; it tells what else cannot be. All problems
// are reported at once, one line each.
func ReadFile(path string, set map[string]string, into any, check func() []Problem) error {
	l := &loader{root: reflect.ValueOf(into).Elem(), file: path, sources: map[string]string{}}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		l.readYAML(text)
	}
	l.readFlags(set)
	if len(l.problems) == 0 && check != nil { // what was not read cannot be checked
		for _, p := range check() {
			l.problem(p.Key, "%s", p.Text)
		}
	}
	return l.err()
}

// Set changes keys of a configuration that was put together in code, by their paths, as flags would.
func Set(c *Config, set map[string]string) error {
	l := &loader{cfg: c, root: reflect.ValueOf(c).Elem(), file: "configuration", sources: map[string]string{}}
	l.readFlags(set)
	return l.err()
}
