// Command deploylint checks the files of deploy/ without Docker: Dockerfiles by BuildKit's own linter (what `docker build
// --check` runs), Compose files by Compose's own loader, strictly.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: deploylint FILE…")
		os.Exit(2)
	}
	failed := false
	for _, path := range os.Args[1:] {
		if err := lint(context.Background(), path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func lint(ctx context.Context, path string) error {
	if strings.HasPrefix(filepath.Base(path), "Dockerfile") {
		return lintDockerfile(ctx, path)
	}
	return lintCompose(ctx, path)
}

func lintDockerfile(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	source := llb.NewSourceMap(nil, path, "Dockerfile", text)
	source.Definition = new(llb.Definition)
	results, err := dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{
		MetaResolver: anyImage{}, Config: dockerui.Config{},
		SourceMap: source,
	})
	if err != nil {
		return err
	}
	var all []error
	if results.Error != nil {
		all = append(all, errors.New(results.Error.Message))
	}
	for _, w := range results.Warnings {
		line := int32(0)
		if w.Location != nil && len(w.Location.Ranges) > 0 {
			line = w.Location.Ranges[0].Start.Line
		}
		all = append(all, fmt.Errorf("line %d: %s: %s", line, w.RuleName, w.Detail))
	}
	return errors.Join(all...)
}

// anyImage answers for base images without a registry: an image of this name exists and sets nothing.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(ocispecs.Image{Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"}})
	return ref, "", config, err
}

// lintCompose loads the project with every profile: unknown keys, missing anchors, dependencies on services that are not
// there and volumes that are not declared are errors.
func lintCompose(ctx context.Context, path string) error {
	options, err := cli.NewProjectOptions([]string{path},
		cli.WithEnv([]string{"POSTGRES_PASSWORD=lint"}), cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return err
	}
	var all []error
	for name, service := range project.Services {
		for _, v := range service.Volumes {
			if v.Type == "bind" {
				if _, err := os.Stat(v.Source); err != nil {
					all = append(all, fmt.Errorf("service %s mounts %w", name, err))
				}
			}
		}
	}
	fmt.Printf("%s: %d services\n", path, len(project.Services))
	return errors.Join(all...)
}
