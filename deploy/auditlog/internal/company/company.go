// Package company makes up a day at a fictional freight company, for demonstrations: several tenants of very different size,
// people at office hours, services around the clock, and agents that say why they acted.
package company

import (
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// Tenant is one of the company's businesses, each a tenant of the log.
type Tenant struct {
	ID   uuid.UUID
	Name string
	// weight is the tenant's share of all events.
	weight int
}

// Tenants are the businesses, largest first. The first is the one the local stack makes a key for.
var Tenants = []Tenant{
	{uuid.MustParse("5eed0001-0000-4000-8000-000000000001"), "Halden Freight", 70},
	{uuid.MustParse("5eed0002-0000-4000-8000-000000000002"), "Halden Customs", 17},
	{uuid.MustParse("5eed0003-0000-4000-8000-000000000003"), "Halden Cold Chain", 8},
	{uuid.MustParse("5eed0004-0000-4000-8000-000000000004"), "Halden Ferries", 4},
	{uuid.MustParse("5eed0005-0000-4000-8000-000000000005"), "Halden Museum", 1},
}

// Day yields n events of the given UTC day in the order they happened. The same day and n give the same events, ids
// included, so that publishing a day twice changes nothing.
func Day(day time.Time, n int) iter.Seq[events.Event] {
	start := day.UTC().Truncate(24 * time.Hour)
	return func(yield func(events.Event) bool) {
		g := newGenerator(uint64(start.Unix()))
		for _, at := range g.times(start, n) {
			if !yield(g.event(at)) {
				return
			}
		}
	}
}

type generator struct {
	rng     *rand.Rand
	seed    *rand.ChaCha8
	actions []action
	byHour  [24]int
}

func newGenerator(seed uint64) *generator {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	src := rand.NewChaCha8(key)
	return &generator{rng: rand.New(src), seed: src, actions: actions, byHour: officeHours}
}

// officeHours is how busy each hour of the day is.
var officeHours = [24]int{4, 3, 3, 3, 4, 6, 14, 38, 82, 95, 90, 78, 52, 74, 88, 84, 76, 55, 28, 16, 12, 9, 7, 5}

func (g *generator) times(start time.Time, n int) []time.Time {
	ts := make([]time.Time, n)
	for i := range ts {
		hour := weighted(g.rng, g.byHour[:], func(w int) int { return w })
		offset := time.Duration(hour)*time.Hour + time.Duration(g.rng.Int64N(int64(time.Hour/time.Microsecond)))*time.Microsecond
		ts[i] = start.Add(offset)
	}
	sort.Slice(ts, func(i, j int) bool { return ts[i].Before(ts[j]) })
	return ts
}

func (g *generator) event(at time.Time) events.Event {
	id, err := uuid.NewRandomFromReader(g.seed)
	if err != nil {
		panic(err) // ChaCha8 never fails to read
	}
	tenant := Tenants[weighted(g.rng, Tenants, func(t Tenant) int { return t.weight })]
	a := g.actions[weighted(g.rng, g.actions, func(a action) int { return a.weight })]
	who := g.actor(pick(g.rng, a.by))
	ev := events.Event{
		ID: id, TenantID: tenant.ID, CreatedAt: at,
		ActorID: who.id, ActorType: who.kind, Action: a.name,
		ResourceType: a.resource, ResourceID: fmt.Sprintf("%s_%05d", a.prefix, g.skewed(20_000)),
		Metadata: g.metadata(who, a),
	}
	if who.reasons {
		why := fmt.Sprintf(pick(g.rng, reasons), 80+g.rng.IntN(20))
		ev.Reasoning = &why
	}
	return ev
}

type actor struct {
	id, kind string
	reasons  bool
}

func (g *generator) actor(kind string) actor {
	k := kinds[kind]
	return actor{id: fmt.Sprintf("%s_%03d", k.prefix, 1+g.skewed(k.count)), kind: kind, reasons: k.reasons}
}

// skewed is a number below n of which small ones are by far the most common.
func (g *generator) skewed(n int) int {
	f := g.rng.Float64()
	return int(f * f * f * float64(n))
}

func (g *generator) metadata(who actor, a action) json.RawMessage {
	m := map[string]any{
		"ip":         fmt.Sprintf("198.51.100.%d", 1+g.skewed(250)),
		"request_id": fmt.Sprintf("req_%012x", g.rng.Uint64N(1<<48)),
		"site":       pick(g.rng, sites),
	}
	if who.reasons {
		m["model"] = map[string]any{"name": "dispatcher-4", "confidence": float64(70+g.rng.IntN(30)) / 100}
	}
	switch a.resource {
	case "invoice", "payment", "refund":
		m["amount"] = map[string]any{"value": fmt.Sprintf("%d.%02d", g.skewed(40_000), g.rng.IntN(100)), "currency": pick(g.rng, []string{"EUR", "NOK", "SEK"})}
	case "shipment", "container":
		m["route"] = []string{pick(g.rng, sites), pick(g.rng, sites)}
		m["weight_kg"] = g.skewed(26_000)
	case "session":
		m["user_agent"] = pick(g.rng, agents)
		m["mfa"] = g.rng.IntN(10) > 0
	}
	out, err := json.Marshal(m)
	if err != nil {
		panic(err) // maps of strings, numbers and lists always marshal
	}
	return out
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// weighted is an index of from, each as likely as its weight.
func weighted[T any](rng *rand.Rand, from []T, weight func(T) int) int {
	total := 0
	for _, f := range from {
		total += weight(f)
	}
	at := rng.IntN(total)
	for i, f := range from {
		if at -= weight(f); at < 0 {
			return i
		}
	}
	return len(from) - 1
}
