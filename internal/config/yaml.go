package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// readYAML sets what the file says. It walks the parsed file beside the schema, rather than let the library decode it,
// so that every error can name the whole path of a key and its line, and all errors are found at once.
func (l *loader) readYAML(text []byte) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		source := l.file
		if e, ok := errors.AsType[yaml.Error](err); ok {
			if token := e.GetToken(); token != nil && token.Position != nil {
				source = fmt.Sprintf("%s:%d", l.file, token.Position.Line)
			}
			err = errors.New(e.GetMessage())
		}
		l.problems = append(l.problems, problem{source: source, text: "is not YAML: " + err.Error()})
		return
	}
	var documents []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType && d.Body.Type() != ast.CommentType {
			documents = append(documents, d.Body)
		}
	}
	switch len(documents) {
	case 0:
	case 1:
		l.section(documents[0], l.root, "")
	default:
		l.problems = append(l.problems, problem{source: l.at(documents[1]), text: "a second YAML document: want one"})
	}
}

func (l *loader) at(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d", l.file, t.Position.Line)
	}
	return l.file
}

// section sets a section's keys.
func (l *loader) section(n ast.Node, section reflect.Value, prefix string) {
	path := strings.TrimSuffix(prefix, ".")
	if n.Type() == ast.NullType { // a key with nothing but comments below it
		return
	}
	entries, ok := mapping(n)
	if !ok {
		l.sources[path] = l.at(n)
		l.problem(path, "want keys and values, not %s", describe(n))
		return
	}
	seen := map[string]bool{}
	var names []string
	for i := range section.NumField() {
		names = append(names, name(section.Type().Field(i)))
	}
	for _, e := range entries {
		key := e.Key.String()
		if t := e.Key.GetToken(); t != nil {
			key = t.Value
		}
		path := prefix + key
		l.sources[path] = l.at(e.Key)
		v := field(section, strings.ReplaceAll(key, ".", "\x00")) // a dot in a key is no path
		switch {
		case !v.IsValid():
			l.problem(path, "unknown key%s", Nearest(key, names))
		case seen[key]:
			l.problem(path, "is set twice")
		default:
			seen[key] = true
			l.value(e.Value, v, path)
		}
	}
}

// value sets one key.
func (l *loader) value(n ast.Node, v reflect.Value, path string) {
	switch {
	case isSection(v.Type()):
		l.section(n, v, path+".")
	case n.Type() == ast.NullType:
		l.problem(path, "has no value: set one, or remove the key")
	case v.Kind() == reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			l.problem(path, "want a list, not %s", describe(n))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
		for i, item := range seq.Values {
			at := fmt.Sprintf("%s[%d]", path, i)
			l.sources[at] = l.at(item)
			l.value(item, list.Index(i), at)
		}
		v.Set(list)
	case v.Kind() == reflect.Map:
		entries, ok := mapping(n)
		if !ok {
			l.problem(path, "want keys and values, not %s", describe(n))
			return
		}
		m := reflect.MakeMap(v.Type())
		for _, e := range entries {
			key := e.Key.GetToken().Value
			at := path + "." + key
			l.sources[at] = l.at(e.Key)
			item := reflect.New(v.Type().Elem()).Elem()
			l.value(e.Value, item, at)
			k := reflect.ValueOf(key).Convert(v.Type().Key())
			if m.MapIndex(k).IsValid() {
				l.problem(at, "is set twice")
			}
			m.SetMapIndex(k, item)
		}
		v.Set(m)
	default:
		text, ok := scalar(n)
		if !ok {
			quote := ""
			if _, entries := mapping(n); entries && strings.HasSuffix(path, "]") {
				quote = `: if it is one, quote it, as in ["127.0.0.1:9092"]`
			}
			l.problem(path, "want a single value, not %s%s", describe(n), quote)
			return
		}
		if err := fromScalar(v, text); err != nil {
			l.problem(path, "%v", err)
		}
	}
}

func mapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode: // | and >
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func describe(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "keys and values"
	case ast.SequenceType:
		return "a list"
	case ast.AnchorType, ast.AliasType, ast.MergeKeyType:
		return "an anchor or alias: write it out"
	case ast.TagType:
		return "a tag"
	}
	return "a single value"
}
