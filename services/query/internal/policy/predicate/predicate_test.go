package predicate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

func pattern(parts ...string) Pattern {
	p := Pattern{OpenStart: parts[0] == "*", OpenEnd: parts[len(parts)-1] == "*"}
	for _, s := range parts {
		if s != "*" {
			p.Pieces = append(p.Pieces, s)
		}
	}
	return p
}

// What the constructors make of their parts, as SQL.
func TestSQL(t *testing.T) {
	t.Parallel()
	a, b, c := Equal(ActorID, "a"), Equal(Action, "b"), Equal(ResourceID, "c")
	for _, tc := range []struct {
		cond *Cond
		want string
	}{
		{Const(true), "true"},
		{Const(false), "false"},
		{And(), "true"},
		{Or(), "false"},
		{And(a, Const(true)), "actor_id = {p0:String}"},
		{And(a, Const(false)), "false"},
		{Or(a, Const(true)), "true"},
		{And(a, b), "actor_id = {p0:String} AND action = {p1:String}"},
		{And(a, Or(b, c)), "actor_id = {p0:String} AND (action = {p1:String} OR resource_id = {p2:String})"},
		{And(a, And(b, a)), "actor_id = {p0:String} AND action = {p1:String}"},
		{And(a, Not(a)), "false"},
		{Or(Not(a), a), "true"},
		{Not(Not(a)), "actor_id = {p0:String}"},
		{Not(And(a, b)), "NOT (actor_id = {p0:String} AND action = {p1:String})"},
		{Not(a), "actor_id != {p0:String}"},
		{Or(a, Equal(Action, "a")), "actor_id = {p0:String} OR action = {p0:String}"},
		{In(ActorID), "false"},
		{In(ActorID, "a", "a"), "actor_id = {p0:String}"},
		{In(ActorID, "b", "a"), "actor_id IN ({p0:String}, {p1:String})"},
		{Not(In(ActorID, "b", "a")), "actor_id NOT IN ({p0:String}, {p1:String})"},
		{Equal(ID, "x"), "id = {p0:UUID}"},
		{Same(ActorID, ActorID), "true"},
		{Same(ResourceID, ActorID), "actor_id = resource_id"},
		{Not(Same(ActorID, ResourceID)), "actor_id != resource_id"},
		{Present(ActorID), "true"},
		{Present(Reasoning), "reasoning IS NOT NULL"},
		{Not(Present(Reasoning)), "reasoning IS NULL"},
		{Before(5), "created_at < fromUnixTimestamp64Milli({p0:Int64}, 'UTC')"},
		{Not(Before(5)), "created_at >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')"},
		{Before(minMillis), "false"},
		{Before(maxMillis), "true"},
		{Like(Action, pattern("a")), "action = {p0:String}"},
		{Like(Action, pattern("*")), "true"},
		{Like(Action, pattern("a", "*")), "startsWith(action, {p0:String})"},
		{Not(Like(Action, pattern("a", "*"))), "NOT startsWith(action, {p0:String})"},
		{Like(Action, pattern("*", "a")), "endsWith(action, {p0:String})"},
		{Like(Action, pattern("*", "a", "*")), "position(action, {p0:String}) > 0"},
		{Like(Action, pattern("a", "*", "b")), "action LIKE {p0:String}"},
		{Not(Like(Action, pattern("a", "*", "b"))), "NOT action LIKE {p0:String}"},
	} {
		if got, _ := SQL(tc.cond, "p"); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}

// Values travel as parameters, whatever is in them; a LIKE pattern takes its own meaning from them.
func TestSQLParameters(t *testing.T) {
	t.Parallel()
	hostile := `' OR 1=1 -- {p0:String} \ %`
	text, args := SQL(Or(Equal(ActorID, hostile), Like(Action, pattern(`a%_\`, "*", "b"))), "p")
	if strings.Contains(text, "1=1") || args["p0"] != hostile || args["p1"] != `a\%\_\\%b` || len(args) != 2 {
		t.Errorf("%s %q", text, args)
	}
}

func TestPatternMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p     Pattern
		match []string
		not   []string
	}{
		{Pattern{}, []string{""}, []string{"a"}},
		{pattern("a"), []string{"a"}, []string{"", "A", "aa"}},
		{pattern("*"), []string{"", "a", "\n"}, nil},
		{pattern("a", "*"), []string{"a", "ab", "a\n"}, []string{"", "ba"}},
		{pattern("*", "a"), []string{"a", "ba", "aa"}, []string{"", "ab"}},
		{pattern("*", "ab", "*"), []string{"ab", "xaby"}, []string{"", "ba"}},
		{pattern("ab", "*", "ba"), []string{"abba", "abxba"}, []string{"aba", "ab"}},
		{pattern("a", "*", "b", "*", "c"), []string{"abc", "axbxc", "abcbc"}, []string{"acb", "ac"}},
		{pattern("*", "aab"), []string{"aaab"}, []string{"aaba"}},
	} {
		for _, s := range c.match {
			if !c.p.Match(s) {
				t.Errorf("%+v does not match %q", c.p, s)
			}
		}
		for _, s := range c.not {
			if c.p.Match(s) {
				t.Errorf("%+v matches %q", c.p, s)
			}
		}
	}
}

// Folding decides what is known, and nothing else changes for the rows it is about.
func TestFold(t *testing.T) {
	t.Parallel()
	k := Known{Values: map[Column][]string{Action: {"a1", "a2"}, ActorID: {"u"}}, From: time.UnixMilli(1000), To: time.UnixMilli(2000)}
	for _, c := range []struct {
		cond *Cond
		want string
	}{
		{Equal(ActorID, "u"), "true"},
		{Equal(ActorID, "v"), "false"},
		{Equal(Action, "a1"), "action = {p0:String}"},
		{In(Action, "a1", "a2", "a3"), "true"},
		{In(Action, "b", "c"), "false"},
		{Like(Action, pattern("a", "*")), "true"},
		{Like(Action, pattern("*", "1")), "endsWith(action, {p0:String})"},
		{Equal(ResourceID, "x"), "resource_id = {p0:String}"},
		{Before(1000), "false"},
		{Before(1001), "created_at < fromUnixTimestamp64Milli({p0:Int64}, 'UTC')"},
		{Before(2000), "true"},
		{Not(Before(2000)), "false"},
		{And(Equal(ActorID, "u"), Or(Equal(ActorID, "v"), Equal(ResourceID, "x"))), "resource_id = {p0:String}"},
	} {
		if got, _ := SQL(c.cond.Fold(k), "p"); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// A column of ids compares by value, and an absent reasoning matches nothing that asks for it behind Present.
func TestMatch(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("01937b7e-0000-7000-8000-000000000001")
	e := &audit.Event{ID: id, ActorID: "u", CreatedAt: time.UnixMicro(999)}
	for i, c := range []struct {
		cond *Cond
		want bool
	}{
		{Equal(ID, id.String()), true},
		{Equal(TenantID, id.String()), true},
		{Equal(TenantID, uuid.Nil.String()), false},
		{And(Present(Reasoning), Equal(Reasoning, "")), false},
		{And(Present(Reasoning), Not(Equal(Reasoning, "x"))), false},
		{Before(1), true},
		{Before(0), false},
		{Same(ActorID, Action), false},
		{Or(Equal(ActorID, "u"), Const(false)), true},
	} {
		if got := c.cond.Match(id, e); got != c.want {
			t.Errorf("%d: %s", i, fmt.Sprint(SQL(c.cond, "p")))
		}
	}
}

// Size tells how long the SQL will be before it is written, also when parts are shared.
func TestSizeSaturates(t *testing.T) {
	t.Parallel()
	c := Or(Equal(ActorID, "a"), Equal(Action, "b"))
	for range 100 {
		c = And(Not(Or(c, Equal(ResourceID, "x"))), c)
	}
	if c.Size() < maxSize {
		t.Errorf("size %d", c.Size())
	}
}

// A condition of the size that policies are limited to fits a query of ClickHouse (max_query_size, 256 KiB) with room for the rest.
func TestLongestTerms(t *testing.T) {
	t.Parallel()
	terms := make([]*Cond, 3000)
	for i := range terms {
		terms[i] = Not(Before(int64(i)))
	}
	if text, _ := SQL(And(terms...), "az"); len(text) > 220_000 {
		t.Errorf("%d bytes", len(text))
	}
}
