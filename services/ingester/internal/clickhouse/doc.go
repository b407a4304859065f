// Package clickhouse is the ingester's side of the event table: its schema, inserts of which the outcome is always known in the end, and reading
// back what is there. It is the only package of the ingester that speaks to ClickHouse.
//
// Inserts go through ch-go, whole columns at a time; everything that is rare and small goes through clickhouse-go.
package clickhouse
