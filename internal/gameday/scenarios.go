package gameday

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

//go:embed scenarios/*.txt
var files embed.FS

// Scenarios returns those that Antipode comes with, by name.
func Scenarios() ([]*Scenario, error) {
	names, err := fs.Glob(files, "scenarios/*.txt")
	if err != nil {
		return nil, err
	}
	var all []*Scenario
	for _, n := range names {
		s, err := read(files, n)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Find returns a scenario by the name of one that Antipode comes with, or by the path of a file.
func Find(name string) (*Scenario, error) {
	if s, err := read(files, "scenarios/"+name+".txt"); err == nil {
		return s, nil
	}
	if _, err := os.Stat(name); err != nil {
		return nil, fmt.Errorf("no scenario %q, and no file of that name: antipode gameday --list shows what there is", name)
	}
	return read(os.DirFS(filepath.Dir(name)), filepath.Base(name))
}

func read(from fs.FS, name string) (*Scenario, error) {
	f, err := from.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Parse(strings.TrimSuffix(path.Base(name), path.Ext(name)), f)
}
