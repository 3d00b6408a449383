package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// EnvPrefix begins every variable that is read.
const EnvPrefix = "ANTIPODE_"

// foreign tells whether a variable with the prefix belongs to a command, not to this schema.
func foreign(name string) bool { return name == "ANTIPODE_CONFIG" || name == "ANTIPODE_TOKEN" }

// Load reads the file at path (none if empty), the variables of env (as os.Environ gives them) that begin with
// ANTIPODE_, and flags (path of a key to its value), in rising precedence over the defaults; reads the files that
// secrets are in; and checks everything. All that is wrong is reported at once, one line each, with the key and where
// it was set. Paths inside the file are relative to the working directory.
func Load(path string, env []string, flags map[string]string) (*Config, error) {
	cfg := Defaults()
	l := &loader{cfg: cfg, root: reflect.ValueOf(cfg).Elem(), file: path, sources: map[string]string{}}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		l.readYAML(text)
	}
	l.readEnv(env)
	l.readFlags(flags)
	l.readSecretFiles()
	if len(l.problems) > 0 { // what was not read cannot be checked
		return nil, l.err()
	}
	if len(l.cfg.Origins) == 0 && l.cfg.Region != "" {
		l.cfg.Origins = append(l.cfg.Origins, l.cfg.Origin())
	}
	for i, u := range l.cfg.Timelines.URLs {
		l.cfg.Timelines.URLs[i] = u.withPassword(l.cfg.Timelines.Password)
	}
	check(l.cfg, l.problem)
	if len(l.problems) > 0 {
		return nil, l.err()
	}
	return l.cfg, nil
}

// loader gathers values, where they came from, and what is wrong.
type loader struct {
	cfg      *Config
	root     reflect.Value // what keys are paths in: cfg, or another file's schema
	file     string
	sources  map[string]string // path of a key → where it was set last
	problems []problem
}

type problem struct {
	source, key, text string
}

// problem notes what is wrong with a key, wherever it was set.
func (l *loader) problem(key, format string, args ...any) {
	l.problems = append(l.problems, problem{l.source(key), key, fmt.Sprintf(format, args...)})
}

// source tells where a key, or else the section around it, was set.
func (l *loader) source(key string) string {
	for k := key; ; {
		if s, ok := l.sources[k]; ok {
			return s
		}
		i := strings.LastIndexAny(k, ".[")
		if i < 0 {
			break
		}
		k = k[:i]
	}
	return cmp.Or(l.file, "no file given by --config or ANTIPODE_CONFIG")
}

// err joins the problems, one line each.
func (l *loader) err() error {
	lines := make([]error, len(l.problems))
	for i, p := range l.problems {
		if p.key == "" {
			lines[i] = fmt.Errorf("config: %s: %s", p.source, p.text)
			continue
		}
		lines[i] = fmt.Errorf("config: %s: %s: %s", p.source, p.key, p.text)
	}
	return errors.Join(lines...)
}

func (l *loader) readEnv(env []string) {
	known := map[string]string{}
	for _, key := range Keys() {
		known[EnvName(key)] = key
	}
	for _, entry := range slices.Sorted(slices.Values(env)) {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || !strings.HasPrefix(name, EnvPrefix) || foreign(name) {
			continue
		}
		source := "environment variable " + name
		key, ok := known[name]
		if !ok {
			l.problems = append(l.problems, problem{source: source, text: "no key has this name" + Nearest(name, slices.Collect(maps.Keys(known)))})
			continue
		}
		l.setText(key, value, source)
	}
}

func (l *loader) readFlags(flags map[string]string) {
	known := keysOf(l.root.Type())
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		if !slices.Contains(known, key) {
			l.problems = append(l.problems, problem{source: "flag", key: key, text: "unknown key" + Nearest(key, known)})
			continue
		}
		l.setText(key, flags[key], "flag "+key)
	}
}

// setText sets a known key from text.
func (l *loader) setText(key, text, source string) {
	l.sources[key] = source
	v := field(l.root, key)
	if err := fromText(v, text); err != nil {
		l.problem(key, "%v", err)
	}
}

// EnvName is the variable of a key.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Keys lists the paths of all keys that variables and flags can set, sorted: all but lists of sections (auth.keys).
func Keys() []string { return keysOf(reflect.TypeFor[Config]()) }

// HasKey tells whether a schema, Config or another file's, has a key that variables and flags can set.
func HasKey[Schema any](key string) bool {
	return slices.Contains(keysOf(reflect.TypeFor[Schema]()), key)
}

// IsNear tells whether a key is one of a schema, or lies in one of its sections.
func IsNear[Schema any](key string) bool {
	section, _, nested := strings.Cut(key, ".")
	return slices.ContainsFunc(keysOf(reflect.TypeFor[Schema]()), func(known string) bool {
		return known == key || nested && strings.HasPrefix(known, section+".")
	})
}

func keysOf(schema reflect.Type) []string {
	var keys []string
	var walk func(t reflect.Type, prefix string)
	walk = func(t reflect.Type, prefix string) {
		for i := range t.NumField() {
			f := t.Field(i)
			switch path := prefix + name(f); {
			case isSection(f.Type):
				walk(f.Type, path+".")
			case f.Type.Kind() == reflect.Slice && isSection(f.Type.Elem()):
			default:
				keys = append(keys, path)
			}
		}
	}
	walk(schema, "")
	slices.Sort(keys)
	return keys
}

// name is the key of a field.
func name(f reflect.StructField) string {
	n, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return n
}

// isSection tells whether a type is a section of keys, not a value.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// field returns the field of a section at a path that exists.
func field(section reflect.Value, path string) reflect.Value {
	first, rest, nested := strings.Cut(path, ".")
	for i := range section.NumField() {
		if name(section.Type().Field(i)) == first {
			if nested {
				return field(section.Field(i), rest)
			}
			return section.Field(i)
		}
	}
	return reflect.Value{}
}

// fromText sets a value from a variable or flag.
func fromText(v reflect.Value, text string) error {
	switch v.Kind() {
	case reflect.Slice:
		list := reflect.MakeSlice(v.Type(), 0, 0)
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			e := reflect.New(v.Type().Elem()).Elem()
			if err := fromScalar(e, item); err != nil {
				return err
			}
			list = reflect.Append(list, e)
		}
		v.Set(list)
		return nil
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			key, value, ok := strings.Cut(item, "=")
			if !ok {
				return fmt.Errorf("%q is not of the form key=value,key=value", text)
			}
			m.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), reflect.ValueOf(value).Convert(v.Type().Elem()))
		}
		v.Set(m)
		return nil
	}
	return fromScalar(v, text)
}

// fromScalar sets one value from its text. Errors show the text, except of secrets.
func fromScalar(v reflect.Value, text string) error {
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration, such as 5s, 1m30s or 200ms", text)
		}
		v.SetInt(int64(d))
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		v.SetInt(n)
	case reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number from 0", text)
		}
		v.SetUint(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f != f {
			return fmt.Errorf("%q is not a number", text)
		}
		v.SetFloat(f)
	default:
		return fmt.Errorf("values of type %v cannot be set", v.Type())
	}
	return nil
}

// readSecretFiles reads each x_file beside a secret x.
func (l *loader) readSecretFiles() {
	eachSecret(reflect.ValueOf(l.cfg).Elem(), "", func(key string, secret, file reflect.Value) {
		if file.String() == "" {
			return
		}
		if secret.String() != "" {
			l.problem(key, "is set here, and %s_file is set too (%s): set one of them", key, l.source(key+"_file"))
			return
		}
		text, err := os.ReadFile(filepath.Clean(file.String()))
		if err != nil {
			l.problem(key+"_file", "%v", err)
			return
		}
		value := strings.TrimRight(string(text), "\r\n")
		if value == "" {
			l.problem(key+"_file", "%s is empty", file.String())
			return
		}
		secret.SetString(value)
	})
}

// eachSecret calls fn for every secret with its path and the field that may name its file.
func eachSecret(section reflect.Value, prefix string, fn func(key string, secret, file reflect.Value)) {
	t := section.Type()
	for i := range t.NumField() {
		v, path := section.Field(i), prefix+name(t.Field(i))
		switch {
		case isSection(v.Type()):
			eachSecret(v, path+".", fn)
		case v.Kind() == reflect.Slice && isSection(v.Type().Elem()):
			for n := range v.Len() {
				eachSecret(v.Index(n), fmt.Sprintf("%s[%d].", path, n), fn)
			}
		case v.Type() == reflect.TypeFor[Secret]():
			fn(path, v, field(section, name(t.Field(i))+"_file"))
		}
	}
}

// Nearest proposes, to be put behind an error, the known name that an unknown one was probably meant to be; empty if none is near.
func Nearest(name string, known []string) string {
	best, distance := "", len(name)/3+1
	slices.Sort(known)
	for _, k := range known {
		if d := edits(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
