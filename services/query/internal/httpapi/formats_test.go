package httpapi

import (
	"context"
	"encoding/csv"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

func (f *faulty) Feed(ctx context.Context, _ policy.Scope, _ audit.FeedQuery) (audit.FeedPage, error) {
	_, err := f.page(ctx)
	return audit.FeedPage{}, err
}

func (f *faulty) Export(ctx context.Context, _ policy.Scope, _ audit.Filter, _ func(*audit.Event) error) error {
	_, err := f.page(ctx)
	return err
}

// Ensure no cell of a CSV begins as a formula does, and that everything else comes back as it was.
func TestCSVCells(t *testing.T) {
	for _, v := range []string{"plain", "a,b", `say "x"`, " lead", "é💡", "=1+1", "+1", "-1", "@x", "\tx", `=cmd|' /C calc'!A0`, "a\nb", "'quoted", "{}", "x=1"} {
		e := audit.Event{ID: uuid.New(), ActorID: v, ActorType: v, Action: v, ResourceType: v, ResourceID: v, Reasoning: &v, CreatedAt: time.Unix(0, 0)}
		line := string(appendCSV(nil, &e))
		cells, err := csv.NewReader(strings.NewReader(line)).Read()
		if err != nil || len(cells) != 9 {
			t.Fatalf("%q: %d cells, %v", line, len(cells), err)
		}
		want := v
		if strings.ContainsAny(v[:1], "=+-@\t\r") {
			want = "'" + v
		}
		for i := 2; i < 8; i++ {
			if cells[i] != want {
				t.Errorf("cell %d of %q is %q, want %q", i, v, cells[i], want)
			}
		}
	}
	e, empty := audit.Event{}, ""
	if line := string(appendCSV(nil, &e)); !strings.HasSuffix(line, ",,{}\r\n") {
		t.Errorf("no reasoning: %q", line)
	}
	if e.Reasoning = &empty; !strings.HasSuffix(string(appendCSV(nil, &e)), `,"",{}`+"\r\n") {
		t.Errorf("an empty reasoning: %q", appendCSV(nil, &e))
	}
}

// Ensure compression is for those who ask for it alone.
func TestAcceptsGzip(t *testing.T) {
	for value, want := range map[string]bool{"": false, "gzip": true, "br, GZIP;q=0.5": true, "gzip;q=0": false, "gzip; q=0.0": false, "identity": false, "gzip;q=x": false} {
		if got := acceptsGzip(http.Header{"Accept-Encoding": {value}}); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}
