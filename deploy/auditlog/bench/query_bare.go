package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// bareQuery is one query that the service sent, as the server logged it: parameters filled in.
type bareQuery struct {
	sql      string
	settings chgo.Settings
	rows     uint64 // read by the server
}

func openBare(e *engines, connections int) (driver.Conn, error) {
	return chgo.Open(&chgo.Options{Addr: []string{fmt.Sprintf("127.0.0.1:%d", e.nativePort)}, Auth: chgo.Auth{Database: "audit"},
		MaxOpenConns: connections, MaxIdleConns: connections})
}

// captureQueries runs ask and returns what the service asked the store meanwhile, in order.
func captureQueries(ctx context.Context, db driver.Conn, ask func() error) (queries []bareQuery, err error) {
	var before uint64
	if err := db.QueryRow(ctx, "SELECT toUInt64(toUnixTimestamp64Micro(now64(6)))").Scan(&before); err != nil {
		return nil, err
	}
	if err := ask(); err != nil {
		return nil, err
	}
	if err := db.Exec(ctx, "SYSTEM FLUSH LOGS"); err != nil {
		return nil, fmt.Errorf("flush the query log: %w", err)
	}
	rows, err := db.Query(ctx, `SELECT query, Settings, read_rows FROM system.query_log
		WHERE type = 'QueryFinish' AND query_kind = 'Select' AND query_id LIKE 'audit-%'
			AND toUnixTimestamp64Micro(query_start_time_microseconds) >= $1
		ORDER BY query_start_time_microseconds`, before)
	if err != nil {
		return nil, fmt.Errorf("read the query log: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var q bareQuery
		var settings map[string]string
		if err := rows.Scan(&q.sql, &settings, &q.rows); err != nil {
			return nil, err
		}
		q.settings = chgo.Settings{}
		for name, value := range settings {
			q.settings[name] = value
		}
		queries = append(queries, q)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(queries) == 0 {
		return nil, errors.New("the query log has no query of the service: its queries have an id that begins with audit-")
	}
	return queries, nil
}

// replay sends the queries one after the other and scans every row, as a program without the service around it would.
func replay(ctx context.Context, db driver.Conn, queries []bareQuery) error {
	var keys pageKeys
	for _, q := range queries {
		options := []chgo.QueryOption{chgo.WithSettings(q.settings)}
		if strings.Contains(q.sql, "FROM "+copiesTable) {
			table, err := keys.table()
			if err != nil {
				return fmt.Errorf("bare query: %w", err)
			}
			options = append(options, chgo.WithExternalTable(table))
		}
		if _, err := readRows(chgo.Context(ctx, options...), db, q.sql, keys.add); err != nil {
			return fmt.Errorf("bare query: %w", err)
		}
	}
	return nil
}

// copiesTable is what the service calls the keys of a page, which it sends along when it looks for other copies of them.
const copiesTable = "page"

// pageKeys are those of the rows that earlier queries gave: the log of queries has no tables that were sent along.
type pageKeys struct {
	at  []time.Time
	id  []uuid.UUID
	seq []uint64
}

func (k *pageKeys) add(columns []string, row []any) {
	for i, name := range columns {
		switch v := row[i].(type) {
		case *time.Time:
			if name == "created_at" {
				k.at = append(k.at, *v)
			}
		case *uuid.UUID:
			k.id = append(k.id, *v)
		case *uint64:
			k.seq = append(k.seq, *v)
		}
	}
}

func (k *pageKeys) table() (*ext.Table, error) {
	table, err := ext.NewTable(copiesTable, ext.Column("at", "DateTime64(6, 'UTC')"), ext.Column("id", "UUID"), ext.Column("seq", "UInt64"))
	for i := 0; i < len(k.id) && err == nil; i++ {
		err = table.Append(k.at[i], k.id[i], k.seq[i])
	}
	return table, err
}

// countRows scans every row.
func countRows(ctx context.Context, db driver.Conn, sql string) (n int, err error) {
	return readRows(ctx, db, sql, func([]string, []any) {})
}

// readRows scans every row and shows it to see.
func readRows(ctx context.Context, db driver.Conn, sql string, see func(columns []string, row []any)) (n int, err error) {
	rows, err := db.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	types := rows.ColumnTypes()
	dest := make([]any, len(types))
	for i, t := range types {
		dest[i] = reflect.New(t.ScanType()).Interface()
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return n, err
		}
		n++
		see(rows.Columns(), dest)
	}
	return n, rows.Err()
}
