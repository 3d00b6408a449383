//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminalSize is how many columns and rows the terminal has; 80 by 24 if it does not say.
func terminalSize(f *os.File) (width, height int) {
	s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || s.Col < 10 || s.Row < 5 {
		return 80, 24
	}
	return int(s.Col), int(s.Row)
}
