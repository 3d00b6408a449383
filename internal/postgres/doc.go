// Package postgres keeps a region's timelines in PostgreSQL, or in a wire-compatible distributed database: plain SQL
// only, no extensions, no advisory locks, no LISTEN.
//
// It behaves like imserver/view.View, which is its specification. What is here besides: one transaction a batch, rows
// written with one statement a table, and the condition of each merge inside its statement.
package postgres
