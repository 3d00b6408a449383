package view

// Group is what the changes of one group spell.
type Group struct{}
