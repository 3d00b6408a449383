// Package postgres keeps a region's timelines in PostgreSQL, or in a wire-compatible distributed database: plain SQL
// only, no extensions, no advisory locks, no LISTEN, no temporary tables.
//
// It behaves like imserver/view.View, which is its specification. What is here besides: one transaction a batch, rows
// written with one statement a table, the condition of each merge inside its statement, and S databases behind one store.
// Partition p of every topic lives in database p mod S, with everything that is derived of it; what is asked of one user
// or of the whole region is asked of all databases and put together.
package postgres
