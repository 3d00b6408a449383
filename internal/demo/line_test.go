package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/checker"
)

// A run that ended before its views were read must not say that they were equal.
func TestLineClaimsOnlyWhatWasChecked(t *testing.T) {
	line := Line(&checker.History{}, nil, time.Second)
	if strings.Contains(line, ": yes") || strings.Count(line, "not checked") != 2 {
		t.Errorf("of a run without views: %s", line)
	}
}
