// Package manual reads what docs/operations.md tells operators to type, so that tests type exactly that.
package manual

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Block is the first block of code in a language below a heading.
func Block(t testing.TB, heading, language string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "../../../docs/operations.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n"+heading+"\n")
	_, block, opened := strings.Cut(below, "```"+language+"\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !opened || !closed {
		t.Fatalf("%s has no block of %s below %q", path, language, heading)
	}
	return block
}

// Commands are the lines of a block that begin with a word, each split at blanks; there must be some. A line that ends in a
// backslash goes on.
func Commands(t testing.TB, block, word string) (all [][]string) {
	t.Helper()
	for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == word {
			all = append(all, fields)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no line begins with %s:\n%s", word, block)
	}
	return all
}
