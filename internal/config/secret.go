package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
)

// mask stands for a secret wherever one would be shown.
const mask = "***"

// Secret is text that is never shown: printing, logging and encoding it give ***.
type Secret string

// Reveal returns the secret itself, for the one place that needs it.
func (s Secret) Reveal() string { return string(s) }

// String shows nothing but whether there is one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format implements fmt.Formatter: no verb, %d included, shows the secret.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, for JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML implements yaml.InterfaceMarshaler.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// URL is a URL that may hold a password, which is never shown.
type URL struct{ url *url.URL }

// UnmarshalText implements encoding.TextUnmarshaler. The error does not repeat the text, which may hold a password.
func (u *URL) UnmarshalText(text []byte) error {
	parsed, err := url.Parse(string(text))
	if err != nil || parsed.Scheme == "" || parsed.Opaque != "" { // key=value pairs are a path, user:password@host is opaque
		return errors.New("is not a URL")
	}
	u.url = parsed
	return nil
}

// Reveal returns the whole URL.
func (u URL) Reveal() string {
	if u.url == nil {
		return ""
	}
	return u.url.String()
}

// withPassword returns the URL with a password, unless it has one.
func (u URL) withPassword(p Secret) URL {
	if u.url == nil || u.url.User == nil || p == "" {
		return u
	}
	if _, has := u.url.User.Password(); has {
		return u
	}
	c := *u.url
	c.User = url.UserPassword(u.url.User.Username(), p.Reveal())
	return URL{&c}
}

// String shows *** in the place of a password.
func (u URL) String() string {
	if u.url == nil {
		return ""
	}
	c := *u.url
	c.RawQuery = maskQuery(c.RawQuery)
	if _, has := c.User.Password(); !has {
		return c.String()
	}
	c.User = url.User(u.url.User.Username())
	// Built by hand: url.UserPassword would escape the mask.
	text := c.String()
	at := len(c.Scheme) + len("://") + len(c.User.String())
	return text[:at] + ":" + mask + text[at:]
}

// maskQuery shows *** as the value of each parameter that is named as a password: drivers take it there too.
func maskQuery(query string) string {
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		if key, _, ok := strings.Cut(pair, "="); ok && strings.Contains(strings.ToLower(key), "pass") {
			pairs[i] = key + "=" + mask
		}
	}
	return strings.Join(pairs, "&")
}

// Format implements fmt.Formatter: no verb shows the password.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// LogValue implements slog.LogValuer.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText implements encoding.TextMarshaler, for JSON.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// MarshalYAML implements yaml.InterfaceMarshaler.
func (u URL) MarshalYAML() (any, error) { return u.String(), nil }
