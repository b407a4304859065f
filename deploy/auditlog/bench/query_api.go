package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// apiReader reads the log through the API with one key.
type apiReader struct {
	base, key string
	client    *http.Client
}

func (q *queryProcess) base() string { return "http://" + q.addr + "/v1/audit-log" }

func newAPIReader(q *queryProcess, key string, connections int) *apiReader {
	return &apiReader{base: q.base(), key: key,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}}
}

// get asks for a path below the log and returns the body of a 200.
func (a *apiReader) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Key", a.key)
	req.Header.Set("X-Tenant-ID", loadTenant.String())
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// walkPage is how many events a page of the walk to a depth has.
const walkPage = 1000

// cursors walks down the log and returns the cursor behind each of the depths, in events; depths that the log does not have are left out.
func (a *apiReader) cursors(ctx context.Context, depths []int) (map[int]string, error) {
	found := map[int]string{}
	began := time.Now()
	defer func() { fmt.Printf("  walked to the depths in %.1f s\n", time.Since(began).Seconds()) }()
	at, cursor := 0, ""
	for _, depth := range depths {
		for at < depth {
			limit := min(walkPage, depth-at)
			values := url.Values{"limit": {strconv.Itoa(limit)}}
			if cursor != "" {
				values.Set("cursor", cursor)
			}
			body, err := a.get(ctx, "?"+values.Encode())
			if err != nil {
				return nil, fmt.Errorf("walk at depth %d: %w", at, err)
			}
			var page struct {
				Next string `json:"next_cursor"`
				More bool   `json:"has_more"`
			}
			if err := json.Unmarshal(body, &page); err != nil {
				return nil, fmt.Errorf("walk at depth %d: %w", at, err)
			}
			if !page.More {
				return found, nil
			}
			at, cursor = at+limit, page.Next
		}
		found[depth] = cursor
	}
	return found, nil
}
