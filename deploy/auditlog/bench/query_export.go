package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

// exportRounds is how often both ways of reading everything are measured, by turns.
const exportRounds = 3

// exportPatience bounds them: a round that has begun is finished.
const exportPatience = 30 * time.Second

// trailingLimit is the end of a query of an export, which reads in segments. The query log has it as a cast.
var trailingLimit = regexp.MustCompile(`\s+LIMIT [^\n]+$`)

// exportEvents is about how many of the tenant's newest events are exported, so that it takes as long on a log of any size.
const exportEvents = 1_000_000

// exports reads the newest of the tenant's log, and what a filter leaves of it.
func (b queryBench) exports(ctx context.Context, l *benchLog, targets *verdicts) error {
	share := min(1, exportEvents/(loadShare*float64(l.events)))
	from := "?from=" + time.Now().Add(-time.Duration(share*float64(loadSpan))).UTC().Format(time.RFC3339)
	for _, way := range []struct{ name, query string }{
		{"export", from},
		{"export of a common action", from + "&action=invoice.0"},
		{"export of a common actor", from + "&actor_id=user_00000"},
	} {
		if err := b.export(ctx, l, targets, way.name, way.query); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return nil
}

// export reads through the API and as one bare SELECT of the same columns and rows, in the same order: with the settings of the service's own query
// and with those of ClickHouse.
func (b queryBench) export(ctx context.Context, l *benchLog, targets *verdicts, name, query string) error {
	queries, err := captureQueries(ctx, l.db, func() error { _, err := l.api.export(ctx, query); return err })
	if err != nil {
		return err
	}
	sql := trailingLimit.ReplaceAllString(queries[0].sql, "")
	var rows uint64
	for _, q := range queries {
		rows += q.rows
	}
	var through, same, plain []float64
	events := 0
	for began := time.Now(); len(through) < exportRounds && (len(through) == 0 || time.Since(began) < exportPatience); {
		for _, way := range []struct {
			rates *[]float64
			read  func() (int, error)
		}{
			{&through, func() (int, error) { return l.api.export(ctx, query) }},
			{&same, func() (int, error) {
				return countRows(chgo.Context(ctx, chgo.WithSettings(queries[0].settings)), l.db, sql)
			}},
			{&plain, func() (int, error) { return countRows(ctx, l.db, sql) }},
		} {
			began := time.Now()
			n, err := way.read()
			if err != nil {
				return err
			}
			if events != 0 && n != events {
				return fmt.Errorf("one way of reading gave %d events, another %d", events, n)
			}
			events = n
			*way.rates = append(*way.rates, float64(n)/time.Since(began).Seconds())
		}
	}
	a, s, p := median(through), median(same), median(plain)
	fmt.Printf("  %s: %d events, %.0f/s, by %d queries of %d rows; bare SELECT of the same %.0f/s with the service's settings, %.0f/s with ClickHouse's own; export / bare %.2f, %.2f; service %.0f MiB at its peak\n",
		name, events, a, len(queries), rows, s, p, a/s, a/p, peakMiB(l.service.cmd.Process.Pid))
	targets.atLeast(name+" / bare SELECT", a/s, 0.7)
	return nil
}

// export reads an export to its end and returns how many events it had.
func (a *apiReader) export(ctx context.Context, query string) (events int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/export"+query, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-API-Key", a.key)
	req.Header.Set("X-Tenant-ID", loadTenant.String())
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("export: %s", resp.Status)
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		events += bytes.Count(buf[:n], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			if resp.Trailer.Get("Audit-Complete") == "" {
				return 0, errors.New("the export is not whole")
			}
			return events - 1, nil // the last line is not an event
		}
		if err != nil {
			return 0, err
		}
	}
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
