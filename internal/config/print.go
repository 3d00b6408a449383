package config

import (
	"fmt"
	"io"
	"reflect"

	"github.com/goccy/go-yaml"
)

// Print writes the configuration as YAML, defaults included, with *** in the place of secrets. A secret that came from a
// file is left out: the key that names the file is there.
func Print(w io.Writer, c *Config) error {
	shown := *c
	shown.Auth.Keys = append([]AuthKey(nil), c.Auth.Keys...)
	eachSecret(reflect.ValueOf(&shown).Elem(), "", func(_ string, secret, file reflect.Value) {
		if file.String() != "" {
			secret.SetString("")
		}
	})
	text, err := yaml.MarshalWithOptions(&shown, yaml.IndentSequence(true))
	if err != nil {
		return fmt.Errorf("config: print: %w", err)
	}
	_, err = w.Write(text)
	return err
}
