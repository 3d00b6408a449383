// Package regions is the life of a region as the others see it: how it is declared lost for good, and what it does when it
// comes back. Everything durable happens in the regions' own logs, through their replicators; this package decides in which
// order, and may be run again after any failure, from anywhere.
package regions
