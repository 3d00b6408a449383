// Package docs keeps what docs/ lists of the code equal to the code: go test ./test/docs -update writes it.
package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/config"
)

var update = flag.Bool("update", false, "write the lists into docs/")

const operations = "../../docs/operations.md"

// TestSettings holds the table of settings in docs/operations.md to the comments and defaults of package config.
func TestSettings(t *testing.T) {
	const begin, end = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
	text, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	listed, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines %q and %q", operations, begin, end)
	}
	want := settings(t)
	if *update {
		if err := os.WriteFile(operations, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if listed != want {
		t.Errorf("the settings in %s are not those of internal/config: go test ./test/docs -update", operations)
	}
}

// settings renders a table for each section of the configuration.
func settings(t *testing.T) string {
	file, err := parser.ParseFile(token.NewFileSet(), "../../internal/config/config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{} // Type.Field and Type → its comment
	ast.Inspect(file, func(n ast.Node) bool {
		d, ok := n.(*ast.GenDecl)
		if !ok {
			return true
		}
		for _, s := range d.Specs {
			spec, ok := s.(*ast.TypeSpec)
			if !ok {
				continue
			}
			said[spec.Name.Name] = oneLine(d.Doc)
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						said[spec.Name.Name+"."+name.Name] = oneLine(f.Comment)
					}
				}
			}
		}
		return false
	})
	var b strings.Builder
	section(&b, said, "", reflect.ValueOf(config.Defaults()).Elem())
	return b.String()
}

func oneLine(g *ast.CommentGroup) string {
	if g == nil {
		return ""
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(g.Text(), "|", `\|`)), " ")
}

func section(b *strings.Builder, said map[string]string, prefix string, v reflect.Value) {
	about := said[v.Type().Name()]
	if prefix != "" {
		_, about, _ = strings.Cut(about, " ")
		fmt.Fprintf(b, "\n`%s` %s\n", strings.TrimSuffix(prefix, "."), about)
	}
	b.WriteString("\n| key | default | |\n|---|---|---|\n")
	var below []func()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		key, kind, comment := prefix+tag, f.Type, said[v.Type().Name()+"."+f.Name]
		switch {
		case kind.Kind() == reflect.Struct && kind != reflect.TypeFor[config.URL]():
			below = append(below, func() { section(b, said, key+".", v.Field(i)) })
			continue
		case kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct && kind.Elem() != reflect.TypeFor[config.URL]():
			elem := reflect.New(kind.Elem()).Elem()
			below = append(below, func() { section(b, said, key+"[].", elem) })
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", key, value(v.Field(i)), comment)
	}
	for _, f := range below {
		f()
	}
}

// value shows a default; what must be set, or may be left out, has none.
func value(v reflect.Value) string {
	if v.IsZero() && v.Kind() != reflect.Bool {
		return ""
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		s := x.String()
		s = strings.TrimSuffix(s, "0s")
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		if s == "" || !strings.ContainsAny(s[len(s)-1:], "hms") {
			s = x.String()
		}
		return "`" + s + "`"
	default:
		return fmt.Sprintf("`%v`", x)
	}
}
