package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// sample lies beside the repository where its developers have it; users do not.
const sample = "../../../../shared/data/sample-cloudtrail.ndjson.gz"

const sampleEvents = 3210

// Ensure real events come back once each, metadata identical as text, newest first with ties by id.
func TestCloudTrailRoundTrip(t *testing.T) {
	lines := sampleLines(t)
	s := startSystem(t)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)

	byTenant := map[uuid.UUID][]events.Event{}
	for i, line := range lines {
		ev, err := events.Decode(line, time.Now())
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		ev.Metadata = slices.Clone(ev.Metadata)
		byTenant[ev.TenantID] = append(byTenant[ev.TenantID], ev)
		must(t, pub.Publish(t.Context(), ev))
	}
	must(t, pub.Close(t.Context()))

	for tenant, want := range byTenant {
		got := s.walkUntil(t, s.key(t, tenant), tenant, 37, len(want))
		compareWalk(t, tenant, want, got)
	}
}

// compareWalk fails unless got is want in the order of the API, field by field.
func compareWalk(t *testing.T, tenant uuid.UUID, want []events.Event, got []item) {
	t.Helper()
	want = slices.Clone(want)
	slices.SortFunc(want, func(a, b events.Event) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return bytes.Compare(b.ID[:], a.ID[:])
	})
	if len(got) != len(want) {
		t.Fatalf("tenant %s: %d events, want %d", tenant, len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		same := g.ID == w.ID && g.ActorID == w.ActorID && g.ActorType == w.ActorType && g.Action == w.Action &&
			g.ResourceType == w.ResourceType && g.ResourceID == w.ResourceID && bytes.Equal(g.Metadata, w.Metadata) &&
			g.CreatedAt == w.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000Z") && (g.Reasoning == nil) == (w.Reasoning == nil) &&
			(g.Reasoning == nil || *g.Reasoning == *w.Reasoning)
		if !same {
			t.Fatalf("tenant %s, event %d:\ngot  %+v\nwant %+v", tenant, i, g, w)
		}
	}
}

// sampleLines are the lines of the sample. Where the folder of shared data is there, so must the sample be.
func sampleLines(t *testing.T) [][]byte {
	t.Helper()
	f, err := os.Open(sample)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(strings.TrimSuffix(sample, "/data/sample-cloudtrail.ndjson.gz")); errors.Is(err, fs.ErrNotExist) {
			t.Skip("the sample of real events is not on this machine")
		}
	}
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	var lines [][]byte
	in := bufio.NewScanner(z)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if !json.Valid(in.Bytes()) {
			t.Fatalf("line %d is not JSON", len(lines)+1)
		}
		lines = append(lines, slices.Clone(in.Bytes()))
	}
	must(t, in.Err())
	if len(lines) != sampleEvents {
		t.Fatalf("the sample has %d lines, want %d", len(lines), sampleEvents)
	}
	return lines
}
