package predicate

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

func TestNeeds(t *testing.T) {
	t.Parallel()
	a, b, c := Equal(ActorID, "a"), Equal(ActorID, "b"), Equal(Action, "c")
	for name, tc := range map[string]struct {
		cond *Cond
		want map[Column][]string
	}{
		"Equal":       {a, map[Column][]string{ActorID: {"a"}}},
		"In":          {In(ActorID, "b", "a"), map[Column][]string{ActorID: {"a", "b"}}},
		"Both":        {And(a, c), map[Column][]string{ActorID: {"a"}, Action: {"c"}}},
		"Narrower":    {And(In(ActorID, "a", "b"), b), map[Column][]string{ActorID: {"b"}}},
		"Either":      {Or(And(a, c), b), map[Column][]string{ActorID: {"a", "b"}}},
		"Unrelated":   {Or(a, c), map[Column][]string{}},
		"Not":         {Not(a), nil},
		"BesideOther": {And(a, Not(c), Like(ResourceID, Pattern{Pieces: []string{"x"}, OpenEnd: true})), map[Column][]string{ActorID: {"a"}}},
		"All":         {Const(true), nil},
	} {
		if got := tc.cond.Needs(); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Ensure no row that fulfils a condition lacks what it is said to need.
func TestNeedsAreNecessary(t *testing.T) {
	t.Parallel()
	values := []string{"a", "b", "c"}
	columns := []Column{ActorID, Action, ResourceType}
	var cond func(t *rapid.T, depth int) *Cond
	cond = func(t *rapid.T, depth int) *Cond {
		switch k := rapid.IntRange(0, 5).Draw(t, "kind"); {
		case k == 0 && depth > 0:
			return And(cond(t, depth-1), cond(t, depth-1))
		case k == 1 && depth > 0:
			return Or(cond(t, depth-1), cond(t, depth-1))
		case k == 2 && depth > 0:
			return Not(cond(t, depth-1))
		default:
			return In(rapid.SampledFrom(columns).Draw(t, "column"), rapid.SliceOfN(rapid.SampledFrom(values), 1, 2).Draw(t, "values")...)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := cond(t, 4)
		needs := c.Needs()
		for range 20 {
			pick := rapid.SampledFrom(values)
			e := &audit.Event{ActorID: pick.Draw(t, "actor"), Action: pick.Draw(t, "action"), ResourceType: pick.Draw(t, "type")}
			if !c.Match(uuid.Nil, e) {
				continue
			}
			for column, allowed := range needs {
				if !In(column, allowed...).Match(uuid.Nil, e) {
					t.Fatalf("%+v fulfils the condition and is said to need %s of %q", e, column, allowed)
				}
			}
		}
	})
}
