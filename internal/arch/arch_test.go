package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/antipode-im/antipode"

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Imports    []string
	GoFiles    []string
	Error      *struct{ Err string }
}

// path is the import path relative to the module.
func (p *pkg) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func list(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,Imports,GoFiles,Error", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []*pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 { // others have tests only
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// fits tells whether a path is, or with /... is at or below, one of the patterns.
func fits(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == "..." {
			return true
		}
		root, below := strings.CutSuffix(p, "/...")
		return path == root || below && strings.HasPrefix(path, root+"/")
	})
}

// violations tells which rules a package breaks.
func violations(p *pkg) []string {
	var broken []string
	i := slices.IndexFunc(ownRules, func(r own) bool { return fits(p.path(), r.of) })
	if i < 0 {
		broken = append(broken, fmt.Sprintf("%s fits no rule: give it a place in internal/arch/rules_test.go, with the reason", p.path()))
	}
	for _, imported := range p.Imports {
		if rest, ok := strings.CutPrefix(imported, module+"/"); ok && i >= 0 {
			r := ownRules[i]
			if !fits(rest, r.may) && !strings.HasPrefix(rest, p.path()+"/") {
				broken = append(broken, fmt.Sprintf("%s imports %s, which it may not: %s", p.path(), rest, r.reason))
			}
		}
		for _, r := range foreignRules {
			hit := slices.ContainsFunc(r.dependency, func(d string) bool { return imported == d || strings.HasPrefix(imported, d+"/") })
			within := slices.ContainsFunc(r.dependency, func(d string) bool {
				return p.ImportPath == d || strings.HasPrefix(p.ImportPath, d+"/")
			})
			if hit && !within && !fits(p.path(), r.only) {
				broken = append(broken, fmt.Sprintf("%s imports %s, which only %v may: %s", p.path(), imported, r.only, r.reason))
			}
		}
	}
	if slices.Contains(badNames, p.Name) {
		broken = append(broken, fmt.Sprintf("%s is called %s: a package is named for the one noun it holds, or it gathers whatever has no place", p.path(), p.Name))
	}
	if i >= 0 && ownRules[i].may == nil && p.path() == "im" {
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") && !strings.HasPrefix(imported, module) {
				broken = append(broken, fmt.Sprintf("im imports %s: %s", imported, ownRules[i].reason))
			}
		}
	}
	return broken
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		for _, v := range violations(p) {
			t.Error(v)
		}
	}
}

// TestRulesCanFail shows the rules packages that break them.
func TestRulesCanFail(t *testing.T) {
	at := func(path, name string, imports ...string) *pkg {
		return &pkg{ImportPath: module + "/" + path, Name: name, Imports: imports}
	}
	for _, c := range []struct {
		p    *pkg
		want string
	}{
		{at("im", "im", module+"/wire"), "im imports wire, which it may not: im is the nouns"},
		{at("im", "im", "github.com/google/uuid"), "im imports github.com/google/uuid: im is the nouns"},
		{at("gateway", "gateway", module+"/router"), "gateway imports router, which it may not: services never import each other"},
		{at("router/routes", "routes", module+"/internal/redis"), "router/routes imports internal/redis, which it may not"},
		{at("imserver", "imserver", "github.com/jackc/pgx/v5/pgxpool"), "imserver imports github.com/jackc/pgx/v5/pgxpool, which only"},
		{at("replicator", "replicator", "google.golang.org/grpc/status"), "gRPC is how services talk today"},
		{at("client", "client", module+"/proto/antipode/v1"), "generated types cross wire as nouns"},
		{at("gateway", "gateway", module+"/gateway/issue"), "issuing tokens is for dev"},
		{at("internal/telemetry", "telemetry", module+"/im"), "internal/telemetry imports im"},
		{at("internal/kafka", "kafka", module+"/internal/app"), "nothing below the composition root knows it"},
		{at("wire", "wire", "github.com/pkg/errors"), "the standard library does it"},
		{at("internal/app/util", "util"), "internal/app/util is called util"},
		{at("internal/novelty", "novelty"), "internal/novelty fits no rule"},
	} {
		if got := strings.Join(violations(c.p), "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s importing %v: %q does not say %q", c.p.path(), c.p.Imports, got, c.want)
		}
	}
	for _, p := range []*pkg{
		at("gateway", "gateway", module+"/gateway/auth", module+"/wire", "net/http"),
		at("internal/app", "app", module+"/gateway/issue", module+"/internal/embedded"),
		at("cmd/antipode", "main", module+"/internal/app", "github.com/spf13/cobra"),
	} {
		if got := violations(p); len(got) > 0 {
			t.Errorf("%s is within the rules: %v", p.path(), got)
		}
	}
}

// findings tells what of a file must not be.
func findings(fset *token.FileSet, f *ast.File) []string {
	var bad []string
	note := func(n ast.Node, format string, args ...any) {
		bad = append(bad, fmt.Sprintf("%v: %s", fset.Position(n.Pos()), fmt.Sprintf(format, args...)))
	}
	if n := fset.File(f.Pos()).LineCount(); n > maxLines {
		note(f, "%d lines; at most %d: a file holds one noun, and is read in one go", n, maxLines)
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				note(d, "init(): what runs before main cannot be configured, tested or left out")
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			for _, s := range d.Specs {
				spec, ok := s.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for _, e := range append(spec.Values, spec.Type) {
					if why := state(e); why != "" {
						note(spec, "package-level %s: state belongs to a value that New returns, or two of it cannot live in one process, as antipode dev needs", why)
					}
				}
			}
		}
	}
	return bad
}

// state tells what kind of state an expression at package level makes, "" for none that can be seen.
func state(e ast.Expr) (why string) {
	if e == nil {
		return ""
	}
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ChanType:
			why = "channel"
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && (x.Name == "atomic" || x.Name == "sync" && !strings.HasPrefix(n.Sel.Name, "Once")) {
				why = x.Name + "." + n.Sel.Name
			}
		}
		return why == ""
	})
	return why
}

func TestFiles(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
			if err != nil {
				t.Error(err)
				continue
			}
			if ast.IsGenerated(f) {
				continue
			}
			for _, b := range findings(fset, f) {
				t.Error(b)
			}
		}
	}
}

// TestFindingsCanFail shows the rules a file that breaks them.
func TestFindingsCanFail(t *testing.T) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "x.go", `package x
var mu sync.Mutex
var queue = make(chan int, 5)
var hits atomic.Int64
var table = map[string]int{"fine": 1}
var parse = func() { var mu sync.Mutex; mu.Lock() }
func init() {}
func (t T) init() {}
`+strings.Repeat("\n", maxLines), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(findings(fset, f), "\n")
	for _, want := range []string{"x.go:1:1: 708 lines", "x.go:2:5: package-level sync.Mutex", "x.go:3:5: package-level channel", "x.go:4:5: package-level atomic.Int64", "x.go:7:1: init()"} {
		if !strings.Contains(got, want) {
			t.Errorf("the findings\n%s\ndo not say %s", got, want)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 5 {
		t.Errorf("%d findings, want 5:\n%s", n, got)
	}
}
