package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// week is what the page on analysts asks about: an ordinary one, but for a night.
func week() []events.Event {
	var out []events.Event
	add := func(at, actor, action, resource, metadata string) {
		created, err := time.Parse("2006-01-02 15:04:05", "2026-11-"+at)
		if err != nil {
			panic(err) // a mistake in the lines below
		}
		kind, _, _ := strings.Cut(action, ".")
		out = append(out, events.Event{
			ID: uuid.New(), TenantID: tenantA, CreatedAt: created, ActorID: actor, ActorType: "user", Action: action,
			ResourceType: kind, ResourceID: resource, Metadata: json.RawMessage(metadata),
		})
	}
	office := `{"ip":"198.51.100.7"}`
	add("16 09:00:00", "mallory", "session.login", "s-1", office)
	add("16 10:00:00", "user_1", "invoice.create", "inv_42", office)
	add("17 11:00:00", "user_2", "invoice.approve", "inv_42", office)
	add("18 09:30:00", "user_1", "session.login", "s-2", office)
	add("18 09:29:00", "user_1", "session.login.fail", "s-2", office)
	add("18 14:00:00", "user_2", "report.export", "rep_1", `{"ip":"198.51.100.7","rows":120}`)
	add("19 09:00:00", "user_1", "role.grant", "user_2", office)
	for i := range 6 {
		add(fmt.Sprintf("20 01:5%d:00", min(i, 4)), "mallory", "session.login.fail", "s-666", fmt.Sprintf(`{"ip":"203.0.113.%d"}`, 66+i/3))
	}
	night := func(at, action, resource, more string) {
		add("20 "+at, "mallory", action, resource, `{"ip":"203.0.113.66","session":"s-666"`+more+`}`)
	}
	night("01:55:00", "session.login", "s-666", "")
	night("02:00:00", "role.grant", "mallory", "")
	why := "for the quarter's end"
	out[len(out)-1].Reasoning = &why
	night("02:05:00", "config.change", "mfa", `,"setting":"mfa.required","from":true,"to":false`)
	night("02:10:00", "invoice.export", "inv_42", `,"rows":40000`)
	night("02:15:00", "customer.export", "all", `,"rows":50000`)
	return out
}

// Ensure each query of the page on analysts gives what the page says, to an analyst bound to a tenant whose neighbour had the same week.
func TestAnalystQueries(t *testing.T) {
	s := startWithAnalysts(t)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	n := 0
	for _, ev := range week() {
		must(t, pub.Publish(t.Context(), ev))
		ev.TenantID, ev.ID = tenantB, uuid.New() // the stream takes one id for one message, whoever sends it
		must(t, pub.Publish(t.Context(), ev))
		n += 2
	}
	must(t, pub.Close(t.Context()))
	s.waitCounted(t, n)
	page, err := os.ReadFile(filepath.Join(root, "docs/analysts.md"))
	must(t, err)
	queries := regexp.MustCompile("(?s)### (\\d+\\. [^\n]*)\n.*?```sql\n(.*?)```\n\n```\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(queries) != 10 {
		t.Fatalf("the page has %d queries with answers", len(queries))
	}
	for _, q := range queries {
		t.Run(q[1], func(t *testing.T) {
			got, err := s.tsv(t, analystA, q[2])
			if err != nil || got != q[3] {
				t.Errorf("%s\ngives\n%s%v\nthe page says\n%s", q[2], got, err, q[3])
			}
		})
	}
}

// Ensure the official client of Node gives values to a query as parameters, as the page does.
func TestAnalystParameters(t *testing.T) {
	s := startWithAnalysts(t)
	s.fill(t, 7)
	rows, err := nodeRows(t.Context(), t, s, analystA, "SELECT actor_id, metadata, events.created_at FROM events WHERE actor_id = {actor:String}", map[string]any{"actor": "user_3"})
	if err != nil || len(rows) != 1 || rows[0]["actor_id"] != "user_3" {
		t.Errorf("%v, %v", rows, err)
	}
	if rows, err := nodeRows(t.Context(), t, s, analystA, "SELECT 1 FROM events WHERE actor_id = {actor:String}", map[string]any{"actor": "x' OR '1' = '1"}); err != nil || len(rows) != 0 {
		t.Errorf("%v, %v", rows, err)
	}
}
