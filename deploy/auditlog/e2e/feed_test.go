package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// feedPage is an answer of the feed.
type feedPage struct {
	Data []struct {
		item
		IngestedAt time.Time `json:"ingested_at"`
	} `json:"data"`
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
}

func (s *system) pull(ctx context.Context, key string, tenant uuid.UUID, params url.Values) (p feedPage, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api+"/feed?"+params.Encode(), nil)
	if err != nil {
		return p, err
	}
	req.Header.Set("X-API-Key", key)
	req.Header.Set("X-Tenant-ID", tenant.String())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return p, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return p, fmt.Errorf("feed: %s", res.Status)
	}
	return p, json.NewDecoder(res.Body).Decode(&p)
}

// Ensure a puller that is torn down at random and goes on from the cursor it stored sees each event of concurrent publishers exactly once, late events
// and events published again included, and misses none.
func TestFeedMissesNothing(t *testing.T) {
	s := startSystem(t)
	tenant := uuid.New()
	key := s.key(t, tenant)
	s.get(t, key, tenant, nil) // until the key is known
	const publishers, each = 4, 400
	var mu sync.Mutex
	want := map[uuid.UUID]bool{}
	var wg sync.WaitGroup
	js, err := jetstream.New(s.nc)
	must(t, err)
	for range publishers {
		pub, err := events.NewPublisher(s.nc)
		must(t, err)
		wg.Go(func() {
			for i := range each {
				at := time.Now().UTC().Truncate(time.Microsecond)
				if i%7 == 0 {
					at = at.Add(-time.Duration(rand.IntN(1000)) * time.Hour)
				}
				e := events.Event{ID: uuid.New(), TenantID: tenant, ActorID: "a", ActorType: "user", Action: "x.y", ResourceType: "r", ResourceID: fmt.Sprint(i),
					Metadata: json.RawMessage(`{}`), CreatedAt: at}
				err := pub.Publish(t.Context(), e)
				if err == nil && i%5 == 0 { // again, as one whose message the stream does not know any more
					var wire []byte
					if wire, err = e.Encode(); err == nil {
						_, err = js.Publish(t.Context(), events.Subject(tenant), wire, jetstream.WithMsgID(e.ID.String()+"-again"))
					}
				}
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				mu.Lock()
				want[e.ID] = true
				mu.Unlock()
			}
			if err := pub.Close(context.Background()); err != nil {
				t.Errorf("close the publisher: %v", err)
			}
		})
	}
	published := make(chan struct{})
	go func() { wg.Wait(); close(published) }()

	got := map[uuid.UUID]int{}
	cursor, restarts := "", 0
	for deadline := time.Now().Add(patience); ; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events after %s", len(got), len(want), patience)
		}
		params := url.Values{"limit": {fmt.Sprint(1 + rand.IntN(200))}, "wait": {"200ms"}}
		if cursor != "" {
			params.Set("cursor", cursor)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(5+rand.IntN(300))*time.Millisecond)
		p, err := s.pull(ctx, key, tenant, params)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) { // torn down: nothing of it was stored
			restarts++
			continue
		}
		must(t, err)
		for _, e := range p.Data {
			if got[e.ID]++; got[e.ID] > 1 {
				t.Fatalf("event %s came %d times", e.ID, got[e.ID])
			}
			if e.IngestedAt.IsZero() {
				t.Fatalf("event %s has no ingested_at", e.ID)
			}
		}
		cursor = p.NextCursor
		select {
		case <-published:
			mu.Lock()
			whole := len(got) >= len(want)
			mu.Unlock()
			if whole && !p.HasMore && len(p.Data) == 0 {
				if len(got) != publishers*each {
					t.Errorf("%d events, want %d", len(got), publishers*each)
				}
				for id := range got {
					if !want[id] {
						t.Errorf("event %s was never published", id)
					}
				}
				t.Logf("%d events over %d restarts", len(got), restarts)
				return
			}
		default:
		}
	}
}

// Ensure the examples of docs/feed.md work: paging and the feed, in JavaScript, Go and curl.
func TestFeedExamples(t *testing.T) {
	s := startSystem(t)
	tenant := uuid.New()
	key := s.key(t, tenant)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	var want []string
	for i := range 1500 { // more than a page
		id := uuid.New()
		_, err := pub.PublishAsync(t.Context(), events.Event{ID: id, TenantID: tenant, ActorID: "a", ActorType: "user", Action: "x.y", ResourceType: "r", ResourceID: fmt.Sprint(i)})
		must(t, err)
		want = append(want, id.String())
	}
	must(t, pub.Close(t.Context()))
	slices.Sort(want)
	s.walkUntil(t, key, tenant, 1000, len(want))
	text, err := os.ReadFile(filepath.Join(root, "docs/feed.md"))
	must(t, err)
	api := strings.TrimSuffix(s.api, "/v1/audit-log")
	env := append(os.Environ(), "KEY="+key, "TENANT="+tenant.String(), "API="+api)

	t.Run("JavaScript", func(t *testing.T) {
		script := fenced(t, text, "js") + `
const walked = [], fed = [], end = new AbortController();
for await (const e of walk()) walked.push(e.id);
await follow(undefined, (events) => { fed.push(...events.map((e) => e.id)); if (fed.length >= 1500) end.abort(); }, end.signal);
console.log(JSON.stringify([walked.sort(), fed.sort()]));`
		file := filepath.Join(t.TempDir(), "feed.mjs")
		must(t, os.WriteFile(file, []byte(script), 0o600))
		sameIDs(t, want, run(t, env, "", "node", file))
	})
	t.Run("Go", func(t *testing.T) {
		dir := t.TempDir()
		source := `package main
import ("context"; "encoding/json"; "errors"; "fmt"; "net/http"; "net/url"; "os"; "slices")
` + fenced(t, text, "go") + `
func ids(events []json.RawMessage) (out []string) {
	for _, raw := range events {
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil { panic(err) }
		out = append(out, e.ID)
	}
	return out
}
func main() {
	api, key, tenant := os.Getenv("API"), os.Getenv("KEY"), os.Getenv("TENANT")
	var walked, fed []string
	params := url.Values{"limit": {"1000"}}
	for more := true; more; {
		page, err := Get(context.Background(), api+"/v1/audit-log", key, tenant, params)
		if err != nil { panic(err) }
		walked = append(walked, ids(page.Data)...)
		params.Set("cursor", page.NextCursor)
		more = page.HasMore
	}
	done := errors.New("done")
	err := Follow(context.Background(), api, key, tenant, "", func(events []json.RawMessage, _ string) error {
		if fed = append(fed, ids(events)...); len(fed) >= 1500 { return done }
		return nil
	})
	if err != done { panic(err) }
	slices.Sort(walked); slices.Sort(fed)
	out, _ := json.Marshal([][]string{walked, fed})
	fmt.Println(string(out))
}`
		formatted, err := format.Source([]byte(source))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "main.go"), formatted, 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/feed\n\ngo 1.26\n"), 0o600))
		sameIDs(t, want, run(t, append(env, "GOWORK=off"), dir, "go", "run", "."))
	})
	t.Run("Shell", func(t *testing.T) {
		script := strings.ReplaceAll(fenced(t, text, "sh"), "http://127.0.0.1:8080", api)
		out := run(t, env, t.TempDir(), "bash", "-c", "set -euo pipefail\n"+script)
		if n := bytes.Count(out, []byte(`"ingested_at"`)); n != len(want) || !bytes.Contains(out, []byte(`{"complete":true,"count":1500}`)) {
			t.Errorf("%d events in the feed, want %d; or an export without its end:\n%.300s", n, len(want), out)
		}
	})
}

// fenced is all blocks of one language.
func fenced(t *testing.T, text []byte, language string) string {
	t.Helper()
	var out strings.Builder
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(text, -1) {
		out.Write(m[1])
	}
	if out.Len() == 0 {
		t.Fatalf("docs/feed.md has no %s", language)
	}
	return out.String()
}

func run(t *testing.T, env []string, dir, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, stderr.Bytes())
	}
	return out
}

// sameIDs compares what an example walked and what it was fed with what there is.
func sameIDs(t *testing.T, want []string, out []byte) {
	t.Helper()
	var got [][]string
	must(t, json.Unmarshal(out, &got))
	for i, name := range []string{"walk", "feed"} {
		if !slices.Equal(got[i], want) {
			t.Errorf("the %s gives %d events, want %d", name, len(got[i]), len(want))
		}
	}
}
