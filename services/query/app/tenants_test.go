package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"example.com/auditlog/services/query/app"
)

// side is one of two tenants whose rows lie between each other, some under the same id and time.
type side struct {
	tenant uuid.UUID
	key    string
	mark   string
	rows   []row
}

type shownPage struct {
	Data []struct {
		ID       uuid.UUID
		Metadata struct{ Of string }
	}
	NextCursor string `json:"next_cursor"`
}

func twoSides(t *testing.T, s *system) [2]*side {
	t.Helper()
	var sides [2]*side
	for i := range sides {
		tenant := uuid.New()
		sides[i] = &side{tenant: tenant, key: s.key(t, app.KeySpec{Tenant: tenant}).Key, mark: fmt.Sprintf(`{"Of":"%d"}`, i)}
	}
	var all []row
	for n := range 120 {
		first := newRow(sides[0].tenant, november.Add(time.Duration(n/4)*time.Second))
		first.actor, first.resourceType, first.resourceID = fmt.Sprintf("user_%d", n%3), []string{"invoice", "vault"}[n%2], fmt.Sprintf("r_%d", n%5)
		first.metadata = sides[0].mark
		second := first
		second.tenant, second.metadata, second.seq = sides[1].tenant, sides[1].mark, sequences.Add(1)
		if n%3 > 0 {
			second.id = uuid.New()
		}
		sides[0].rows, sides[1].rows = append(sides[0].rows, first), append(sides[1].rows, second)
		all = append(all, first, second)
	}
	s.insert(t, all...)
	for _, x := range sides {
		s.get(t, x.key, x.tenant, "?limit=1") // until it is known
	}
	return sides
}

// Ensure that whatever one of two tenants asks, with its own ids and cursors or the other's, it gets its own rows: all that match, and no others.
func TestTenantsCannotTouch(t *testing.T) {
	s := newSystem(t, shared, nil)
	sides := twoSides(t, s)
	rapid.Check(t, func(rt *rapid.T) {
		i := rapid.IntRange(0, 1).Draw(rt, "side")
		us, them := sides[i], sides[1-i]
		query, matches := drawQuery(rt)
		want := map[uuid.UUID]bool{}
		for _, r := range us.rows {
			if matches(r) {
				want[r.id] = true
			}
		}
		limit := rapid.IntRange(7, 60).Draw(rt, "limit")
		cursor := ""
		for {
			q := fmt.Sprintf("?limit=%d%s%s", limit, query, cursor)
			res, body := s.getOnce(t, us.key, us.tenant, q)
			if res.StatusCode != http.StatusOK {
				rt.Fatalf("%s: %d %s", q, res.StatusCode, body)
			}
			var page shownPage
			must(t, json.Unmarshal([]byte(body), &page))
			for _, e := range page.Data {
				if e.Metadata.Of != fmt.Sprint(i) || !want[e.ID] {
					rt.Fatalf("%s: %s of tenant %s, which must not be here", q, e.ID, e.Metadata.Of)
				}
				delete(want, e.ID)
			}
			if page.NextCursor == "" {
				break
			}
			cursor = "&cursor=" + page.NextCursor
			if res, body := s.getOnce(t, them.key, them.tenant, "?"+strings.TrimPrefix(query+cursor, "&")); res.StatusCode != 400 || !strings.Contains(body, "invalid_cursor") {
				rt.Fatalf("the other tenant's cursor: %d %s", res.StatusCode, body)
			}
		}
		if len(want) > 0 {
			rt.Fatalf("%s: %d rows are missing", query, len(want))
		}
		swapped(t, rt, s, us, them, fmt.Sprint(i))
	})
}

// swapped asks for a single event of the other tenant, and with its tenant.
func swapped(t *testing.T, rt *rapid.T, s *system, us, them *side, mark string) {
	id := rapid.SampledFrom(them.rows).Draw(rt, "theirs").id
	mine := slices.ContainsFunc(us.rows, func(r row) bool { return r.id == id })
	res, body := s.getOnce(t, us.key, us.tenant, "/"+id.String())
	if !mine && res.StatusCode != http.StatusNotFound || mine && (res.StatusCode != http.StatusOK || !strings.Contains(body, `"Of":"`+mark+`"`)) {
		rt.Fatalf("id %s, ours too: %v: %d %s", id, mine, res.StatusCode, body)
	}
	for _, path := range []string{"", "/" + id.String()} {
		if res, body := s.getOnce(t, us.key, them.tenant, path); res.StatusCode != http.StatusForbidden || strings.Contains(body, `"Of"`) {
			rt.Fatalf("the other tenant%s: %d %s", path, res.StatusCode, body)
		}
	}
}

// drawQuery draws filters and what they mean.
func drawQuery(rt *rapid.T) (string, func(row) bool) {
	values := url.Values{}
	draw := func(name string, from ...string) []string {
		vs := rapid.SliceOfN(rapid.SampledFrom(from), 0, 2).Draw(rt, name)
		for _, v := range vs {
			values.Add(name, v)
		}
		return vs
	}
	actors := draw("actor_id", "user_0", "user_1", "user_2", "' OR 1=1 --", `") || true || ("`)
	types := draw("resource_type", "invoice", "vault", "{az0:UUID}")
	ids := draw("resource_id", "r_0", "r_1", "r_4", `\'`)
	from := november.Add(time.Duration(rapid.IntRange(-1, 20).Draw(rt, "from")) * time.Second)
	if rapid.Bool().Draw(rt, "bounded") {
		values.Set("from", from.Format(time.RFC3339Nano))
	} else {
		from = time.Time{}
	}
	any := func(vs []string, v string) bool { return len(vs) == 0 || slices.Contains(vs, v) }
	text := values.Encode()
	if text != "" {
		text = "&" + text
	}
	return text, func(r row) bool {
		return any(actors, r.actor) && any(types, r.resourceType) && any(ids, r.resourceID) && !r.at.Before(from)
	}
}
