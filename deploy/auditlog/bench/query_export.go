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
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// exportRounds is how often both ways of reading everything are measured, by turns.
const exportRounds = 3

// benchExport measures exports alone, on a log of o.events events.
func benchExport(ctx context.Context, o options) error {
	return queryBench{exportOnly: true}.run(ctx, o)
}

// trailingLimit is the end of a query of an export, which reads in segments.
var trailingLimit = regexp.MustCompile(`\s+LIMIT \S+$`)

// exports reads all of the tenant's log through the API and as one bare SELECT of the same columns and rows, in the same order: with the
// settings of the service's own query and with those of ClickHouse.
func (b queryBench) exports(ctx context.Context, api *apiReader, db driver.Conn) error {
	queries, err := captureQueries(ctx, db, func() error { _, err := api.export(ctx); return err })
	if err != nil {
		return err
	}
	sql := trailingLimit.ReplaceAllString(queries[0].sql, "")
	var through, same, plain []float64
	for range exportRounds {
		for _, way := range []struct {
			rates *[]float64
			read  func() (int, error)
		}{
			{&through, func() (int, error) { return api.export(ctx) }},
			{&same, func() (int, error) {
				return countRows(chgo.Context(ctx, chgo.WithSettings(queries[0].settings)), db, sql)
			}},
			{&plain, func() (int, error) { return countRows(ctx, db, sql) }},
		} {
			began := time.Now()
			n, err := way.read()
			if err != nil {
				return err
			}
			*way.rates = append(*way.rates, float64(n)/time.Since(began).Seconds())
		}
	}
	a, s, p := median(through), median(same), median(plain)
	fmt.Printf("  export: %.0f events/s; bare SELECT of the same %.0f/s with the service's settings, %.0f/s with ClickHouse's own; export / bare %.2f, %.2f\n",
		a, s, p, a/s, a/p)
	return nil
}

// export reads an export to its end and returns how many events it had.
func (a *apiReader) export(ctx context.Context) (events int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/export", nil)
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
