package clickhouse

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/policy/predicate"
)

// tagArray is the expression of the index over all filter columns, letter by letter as the table has it. A letter keeps the values of each column
// apart, so that a tag is in the array exactly if its column has that value: with or without an index, hasAll and hasAny mean what a comparison of the columns would.
const tagArray = "['a' || actor_id, 'c' || action, 't' || resource_type, 'r' || resource_id]"

// maxCombinations is how many combinations of values of several columns are written out: each is intersected in the index. Beyond, columns of several
// values are looked up alone, which is as right and reads every row where two of them are common and never meet.
const maxCombinations = audit.MaxValues

// tagLetters are the letters of the columns in tagArray.
var tagLetters = map[predicate.Column]string{predicate.ActorID: "a", predicate.Action: "c", predicate.ResourceType: "t", predicate.ResourceID: "r"}

// filter adds the caller's filters, without the times, and what the index can know of the scope's condition, which stands beside it.
func (s *statement) filter(f *audit.Filter, scope policy.Scope) {
	columns := map[predicate.Column][]string{predicate.ActorID: f.ActorIDs, predicate.Action: f.Actions, predicate.ResourceType: f.ResourceTypes, predicate.ResourceID: f.ResourceIDs}
	for column, values := range scope.Needs() {
		if _, ok := tagLetters[column]; ok {
			columns[column] = narrow(columns[column], values)
		}
	}
	var groups [][]string // tags of which one is needed, by column
	for _, column := range slices.Sorted(maps.Keys(columns)) {
		tags := make([]string, len(columns[column]))
		for i, value := range columns[column] {
			tags[i] = tagLetters[column] + value
		}
		if len(tags) > 0 {
			groups = append(groups, tags)
		}
	}
	s.tags(groups)
}

// narrow is what filter and scope leave of a column's values. When that is nothing the filter stays: the scope's own condition hides its rows.
func narrow(filter, scope []string) []string {
	if len(filter) == 0 {
		return scope
	}
	common := slices.DeleteFunc(slices.Clone(filter), func(v string) bool { return !slices.Contains(scope, v) })
	if len(common) == 0 {
		return filter
	}
	return common
}

// tags asks for one tag of each group.
func (s *statement) tags(groups [][]string) {
	var single []string
	var several [][]string
	combinations := 1
	for _, g := range groups {
		if len(g) == 1 {
			single = append(single, g[0])
			continue
		}
		several = append(several, g)
		combinations = min(combinations*len(g), maxCombinations+1)
	}
	s.indexed = len(groups) > 0
	if len(groups) < 2 || len(several) == 0 || combinations > maxCombinations {
		if len(single) > 0 {
			s.terms = append(s.terms, s.has("hasAll", single))
		}
		for _, g := range several {
			s.terms = append(s.terms, s.has("hasAny", g))
		}
		return
	}
	s.terms = append(s.terms, s.anyOf(combine(single, several)))
}

// combine is every set of tags that has all of single and one of each of several.
func combine(single []string, several [][]string) [][]string {
	sets := [][]string{single}
	for _, g := range several {
		var next [][]string
		for _, set := range sets {
			for _, tag := range g {
				next = append(next, append(slices.Clone(set), tag))
			}
		}
		sets = next
	}
	return sets
}

// anyOf is the condition that a row has all tags of one of the sets.
func (s *statement) anyOf(sets [][]string) string {
	terms := make([]string, len(sets))
	for i, set := range sets {
		terms[i] = s.has("hasAll", set)
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

// has is a call of hasAll or hasAny with tags as parameters.
func (s *statement) has(function string, tags []string) string {
	names := make([]string, len(tags))
	for i, tag := range tags {
		name := "tag_" + tag[:1] + strconv.Itoa(s.tagNumber(tag))
		s.args[name] = tag
		names[i] = "{" + name + ":String}"
	}
	return function + "(" + tagArray + ", [" + strings.Join(names, ", ") + "])"
}

// tagNumber is the number of a tag's parameter among those with its letter: that of the same tag when there is one.
func (s *statement) tagNumber(tag string) int {
	for i := 0; ; i++ {
		if had, ok := s.args["tag_"+tag[:1]+strconv.Itoa(i)]; !ok || had == tag {
			return i
		}
	}
}
