// Package arch holds the architecture to its rules: who may import whom, what a package may be called, what must not
// stand at package level. It has tests only; each rule carries its reason, which a failure prints.
package arch
