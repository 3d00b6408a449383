package telemetry

import (
	"log/slog"
	"regexp"
	"strings"
)

const masked = "***"

// userinfo is the password in a URL of any scheme.
var userinfo = regexp.MustCompile(`(://[^/\s:@]*):[^/\s@]+@`)

// mask is the last line of defence against secrets in logs: attributes whose name says secret, and passwords inside
// URLs, wherever they stand. Types that hold secrets mask themselves (config.Secret).
func mask(_ []string, a slog.Attr) slog.Attr {
	switch strings.ToLower(a.Key) {
	case "password", "secret", "token", "jwt", "authorization", "cookie", "private_key":
		return slog.String(a.Key, masked)
	}
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		err, ok := a.Value.Any().(error)
		if !ok {
			return a
		}
		text = err.Error()
	default:
		return a
	}
	if !strings.Contains(text, "://") {
		return a
	}
	return slog.String(a.Key, userinfo.ReplaceAllString(text, "$1:"+masked+"@"))
}
