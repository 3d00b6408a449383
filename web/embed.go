// Package web holds the chat page, the console page and the browser SDK: plain ES modules without a build step, embedded
// so that one binary serves them.
package web

import (
	"embed"
	"io/fs"
)

//go:embed *.html css img js sdk
var files embed.FS

// Files returns the pages, styles and scripts.
func Files() fs.FS { return files }
