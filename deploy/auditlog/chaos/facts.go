package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// row is an event as the log shows it. seq is 0 where it is not shown.
type row struct {
	tenant, id uuid.UUID
	seq        uint64
	actor      string
}

// facts is what the log holds after a run.
type facts struct {
	view    []row          // the analysts' view
	walk    []row          // the API, all pages of all tenants
	letters map[string]int // dead letters by their text
	doubled []string       // messages that were seen in the table more than once, at any time
	verify  string         // what `ingester verify --deep` has to complain of
	stream  uint64         // messages in the stream
}

// gather reads the log in every way there is.
func (s *system) gather(ctx context.Context, r *recovery, j *journal, w *watcher, tenants []uuid.UUID, seed uint64) (*facts, error) {
	f := &facts{letters: map[string]int{}}
	stream, err := r.js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return nil, fmt.Errorf("open the stream: %w", err)
	}
	f.stream = stream.CachedInfo().State.Msgs
	if err := w.look(ctx); err != nil {
		return nil, err
	}
	f.doubled = w.found()
	if f.view, err = s.readView(ctx); err != nil {
		return nil, fmt.Errorf("read the view: %w", err)
	}
	rng := rand.New(rand.NewPCG(seed, 0x77616c6b))
	for _, tenant := range tenants {
		rows, err := s.walkTenant(ctx, tenant, 1+rng.IntN(1000))
		if err != nil {
			return nil, fmt.Errorf("walk tenant %s: %w", tenant, err)
		}
		f.walk = append(f.walk, rows...)
	}
	if err := readLetters(ctx, r.js, f.letters); err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	f.verify, err = s.verify(ctx)
	return f, err
}

// sql asks ClickHouse and calls fn with the columns of each row.
func (s *system) sql(ctx context.Context, query string, fn func(cols []string) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.stack.ClickHouseHTTPURL(), strings.NewReader(query))
	if err != nil {
		return err
	}
	req.Close = true // no idle connection that would outlive the server
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body))
	}
	scan := bufio.NewScanner(resp.Body)
	for scan.Scan() {
		if err := fn(strings.Split(scan.Text(), "\t")); err != nil {
			return err
		}
	}
	return scan.Err()
}

func (s *system) readView(ctx context.Context) (rows []row, err error) {
	err = s.sql(ctx, "SELECT tenant_id, id, stream_seq, actor_id FROM audit.events", func(cols []string) error {
		r := row{actor: cols[3]}
		var err error
		if r.tenant, err = uuid.Parse(cols[0]); err != nil {
			return err
		}
		if r.id, err = uuid.Parse(cols[1]); err != nil {
			return err
		}
		r.seq, err = strconv.ParseUint(cols[2], 10, 64)
		rows = append(rows, r)
		return err
	})
	return rows, err
}

// walkTenant reads all pages of a tenant with a key of its own.
func (s *system) walkTenant(ctx context.Context, tenant uuid.UUID, limit int) (rows []row, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "query"), "keys", "create", "--tenant", tenant.String(), "--name", "chaos", "--json")
	cmd.Env = append(os.Environ(), s.env()...)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	var key struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(out, &key); err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	params := url.Values{"limit": {strconv.Itoa(limit)}}
	for {
		var p struct {
			Data []struct {
				ID      uuid.UUID `json:"id"`
				ActorID string    `json:"actor_id"`
			} `json:"data"`
			Next    string `json:"next_cursor"`
			HasMore bool   `json:"has_more"`
		}
		body, err := s.page(ctx, key.Key, tenant, params)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, fmt.Errorf("read a page: %w", err)
		}
		for _, e := range p.Data {
			rows = append(rows, row{tenant: tenant, id: e.ID, actor: e.ActorID})
		}
		if !p.HasMore {
			return rows, nil
		}
		params.Set("cursor", p.Next)
	}
}

// page reads one page. What the service asks to be tried again is, for a while: a new key is known within a second.
func (s *system) page(ctx context.Context, key string, tenant uuid.UUID, params url.Values) ([]byte, error) {
	for deadline := time.Now().Add(20 * time.Second); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.api+"/v1/audit-log?"+params.Encode(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-API-Key", key)
		req.Header.Set("X-Tenant-ID", tenant.String())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			return body, nil
		}
		again := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout
		if err == nil {
			err = fmt.Errorf("the API says %s: %s", resp.Status, body)
		}
		if !again || time.Now().After(deadline) || !sleep(ctx, 100*time.Millisecond) {
			return nil, err
		}
	}
}

// readLetters counts the dead letters by their text.
func readLetters(ctx context.Context, js jetstream.JetStream, into map[string]int) error {
	stream, err := js.Stream(ctx, events.StreamDLQ)
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		into[string(m.Data)]++
	}
	return nil
}

// verify runs `ingester verify --deep` and returns its complaints, empty when it agrees.
func (s *system) verify(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "ingester"), "verify", "--deep", "--json")
	cmd.Env = append(os.Environ(), s.env()...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		return "", nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "", fmt.Errorf("run ingester verify: %w", err)
	}
	var report struct {
		Counts   map[string]uint64 `json:"counts"`
		Findings []json.RawMessage `json:"findings"`
	}
	if json.Unmarshal(out, &report) != nil || len(report.Findings) == 0 {
		return fmt.Sprintf("%s: %s", exit, bytes.TrimSpace(stderr.Bytes())), nil
	}
	return fmt.Sprintf("%s: %v, the first: %s", exit, report.Counts, report.Findings[0]), nil
}

// watcher looks for messages that are in the table more than once. The view and merges fold such rows, so it has to look all the time.
type watcher struct {
	system *system

	mu      sync.Mutex
	doubled map[string]bool
}

const (
	watchEvery = 400 * time.Millisecond
	// watchBack is how many sequences back from the newest the watcher looks.
	watchBack = 50_000
)

// run looks until ctx is done. While ClickHouse is away there is nothing to see.
func (w *watcher) run(ctx context.Context) {
	for sleep(ctx, watchEvery) {
		actx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = w.look(actx)
		cancel()
	}
}

func (w *watcher) look(ctx context.Context) error {
	query := fmt.Sprintf(`SELECT stream_seq, count() AS copies, any(tenant_id), any(id) FROM audit.event_log
		WHERE stream_seq + %d > (SELECT max(stream_seq) FROM audit.event_log) GROUP BY partition, stream_seq HAVING copies > 1`, watchBack)
	err := w.system.sql(ctx, query, func(cols []string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.doubled[fmt.Sprintf("sequence %s (tenant %s, event %s)", cols[0], cols[2], cols[3])] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for doubled rows: %w", err)
	}
	return nil
}

func (w *watcher) found() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for text := range w.doubled {
		out = append(out, text)
	}
	return out
}
