package control

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// DefaultDays is how long events are kept unless a rule says otherwise.
const DefaultDays = 400

// day is what retention counts in.
const day = 24 * time.Hour

// State is what is in force after the decision at Seq. It never changes, and may be used by several goroutines.
type State struct {
	// Seq and Hash are those of the newest decision; zero when there is none.
	Seq  uint64
	Hash ledger.Digest

	decided []Record // by people, oldest first: neither cuts nor what was done

	all        map[string]Record               // rules of all tenants, by prefix
	own        map[uuid.UUID]map[string]Record // of one tenant
	holds      map[uuid.UUID]Record
	offboarded map[uuid.UUID]Record
	erased     map[uuid.UUID][]Record
	eraseRules map[uuid.UUID]Record
	erasing    []Record // erasures that the table is not known to follow
	covering   map[uuid.UUID]*covering
	marks      []Mark
	open       []Record          // cuts that are not done
	runs       map[string]Record // newest Done of each shard, of a run over all of its tenants
	purged     map[int]time.Time
}

// Mark is what a cut has left in the table of tombstones.
type Mark struct {
	Mark, Rows, Cut uint64
	Tenant          uuid.UUID
}

// covering is the cuts of one tenant but for those that a newer one covers all of.
type covering struct {
	cuts []Record
	// before is the latest bound of any: what was created later is covered by none.
	before int64
}

func newState() *State {
	return &State{
		all: map[string]Record{}, own: map[uuid.UUID]map[string]Record{}, holds: map[uuid.UUID]Record{}, offboarded: map[uuid.UUID]Record{},
		erased: map[uuid.UUID][]Record{}, eraseRules: map[uuid.UUID]Record{}, covering: map[uuid.UUID]*covering{}, runs: map[string]Record{}, purged: map[int]time.Time{},
	}
}

// with is the state after more decisions.
func (s *State) with(records []Record) *State {
	if len(records) == 0 {
		return s
	}
	next := &State{
		Seq: s.Seq, Hash: s.Hash, decided: slices.Clip(s.decided), marks: slices.Clip(s.marks), open: slices.Clone(s.open),
		all: maps.Clone(s.all), own: maps.Clone(s.own), holds: maps.Clone(s.holds), offboarded: maps.Clone(s.offboarded),
		erased: maps.Clone(s.erased), eraseRules: maps.Clone(s.eraseRules), erasing: slices.Clone(s.erasing), covering: maps.Clone(s.covering), runs: maps.Clone(s.runs), purged: maps.Clone(s.purged),
	}
	for _, r := range records {
		next.apply(r)
	}
	return next
}

func (s *State) apply(r Record) {
	s.Seq, s.Hash, r.Data = r.Seq, r.Hash, nil
	if r.Kind != Removal && r.Kind != Done {
		s.decided = append(s.decided, r)
	}
	switch r.Kind {
	case RetentionSet, RetentionUnset:
		s.applyRule(r)
	case HoldSet:
		s.holds[*r.Tenant] = r
	case HoldRelease:
		delete(s.holds, *r.Tenant)
	case Offboarded:
		s.offboarded[*r.Tenant] = r
	case Erased:
		s.erased[*r.Tenant] = append(slices.Clip(s.erased[*r.Tenant]), r)
		s.erasing = append(s.erasing, r)
	case EraseRuleSet:
		s.eraseRules[*r.Tenant] = r
	case EraseRuleUnset:
		delete(s.eraseRules, *r.Tenant)
	case Removal:
		s.covering[*r.Tenant] = s.covering[*r.Tenant].with(r)
		s.marks = append(s.marks, Mark{Mark: r.Cut.Mark, Rows: r.Cut.Rows, Cut: r.Seq, Tenant: *r.Tenant})
		s.open = append(s.open, r)
	case Done:
		s.open = slices.DeleteFunc(s.open, func(cut Record) bool { return slices.Contains(r.Done.Cuts, cut.Seq) })
		s.erasing = slices.DeleteFunc(s.erasing, func(e Record) bool { return slices.Contains(r.Done.Erasures, e.Seq) })
		for _, p := range r.Done.Purged {
			s.purged[p] = r.At
		}
		if r.Done.Whole {
			s.runs[r.Done.Shard] = r
		}
	}
}

func (s *State) applyRule(r Record) {
	rules := s.all
	if r.Tenant != nil {
		rules = maps.Clone(s.own[*r.Tenant])
		if rules == nil {
			rules = map[string]Record{}
		}
		s.own[*r.Tenant] = rules
	}
	if r.Kind == RetentionUnset {
		delete(rules, r.Retention.Prefix)
		return
	}
	rules[r.Retention.Prefix] = r
}

func (c *covering) with(r Record) *covering {
	next := &covering{cuts: []Record{}, before: math.MinInt64}
	if c != nil {
		next.before = c.before
		next.cuts = slices.DeleteFunc(slices.Clone(c.cuts), func(old Record) bool { return covers(r.Cut, old.Cut) })
	}
	next.cuts = append(next.cuts, r)
	for _, b := range r.Cut.Bounds {
		next.before = max(next.before, b.Before)
	}
	return next
}

// covers says whether everything that the old cut covers is covered by the new one, as far as that can be seen at once.
func covers(newer, old *Cut) bool {
	if newer.Through < old.Through || len(newer.Bounds) != len(old.Bounds) {
		return false
	}
	for i, b := range newer.Bounds {
		if b.Prefix != old.Bounds[i].Prefix || b.Before < old.Bounds[i].Before {
			return false
		}
	}
	return true
}

// Covers says whether the cut covers an event of its tenant: created in microseconds since 1970, seq its sequence in the stream of events.
func (c *Cut) Covers(action string, created int64, seq uint64) bool {
	if seq > c.Through {
		return false
	}
	before, longest := int64(math.MinInt64), -1
	for _, b := range c.Bounds {
		if len(b.Prefix) > longest && strings.HasPrefix(action, b.Prefix) {
			before, longest = b.Before, len(b.Prefix)
		}
	}
	return created < before
}

// Covered returns the sequence in the log of a cut that covers an event, or 0: it was removed from the table, or is about to be, and does not come back.
func (s *State) Covered(tenant uuid.UUID, action string, created int64, seq uint64) uint64 {
	c := s.covering[tenant]
	if c == nil || created >= c.before {
		return 0
	}
	for i := len(c.cuts) - 1; i >= 0; i-- {
		if c.cuts[i].Cut.Covers(action, created, seq) {
			return c.cuts[i].Seq
		}
	}
	return 0
}

// Marks returns what all cuts have left in the table of tombstones, oldest first.
func (s *State) Marks() []Mark { return s.marks }

// Open returns the cuts whose rows are not known to be gone, oldest first.
func (s *State) Open() []Record { return s.open }

// IsOpen says whether the rows of the cut at a sequence are not known to be gone.
func (s *State) IsOpen(cut uint64) bool {
	return slices.ContainsFunc(s.open, func(r Record) bool { return r.Seq == cut })
}

// Held returns the decision that has put the tenant on hold.
func (s *State) Held(tenant uuid.UUID) (r Record, held bool) {
	r, held = s.holds[tenant]
	return r, held
}

// Holds returns the holds that are in force, in the order in which they were set.
func (s *State) Holds() []Record { return bySeq(maps.Values(s.holds)) }

// Offboarded returns the decision that the tenant has left.
func (s *State) Offboarded(tenant uuid.UUID) (r Record, left bool) {
	r, left = s.offboarded[tenant]
	return r, left
}

// Erasures returns the erasures of a tenant, oldest first.
func (s *State) Erasures(tenant uuid.UUID) []Record { return s.erased[tenant] }

// ErasedTenants returns the tenants that have erasures, in order.
func (s *State) ErasedTenants() []uuid.UUID {
	return slices.SortedFunc(maps.Keys(s.erased), compareIDs)
}

// Erasing returns the erasures that the table is not known to follow, oldest first.
func (s *State) Erasing() []Record { return s.erasing }

// IsErasing says whether the table is not known to follow the erasure at a sequence.
func (s *State) IsErasing(seq uint64) bool {
	return slices.ContainsFunc(s.erasing, func(r Record) bool { return r.Seq == seq })
}

// EraseRule returns the rule of what goes with a tenant's actors who are erased; the zero rule when there is none.
func (s *State) EraseRule(tenant uuid.UUID) EraseRule {
	if r, set := s.eraseRules[tenant]; set {
		return *r.EraseRule
	}
	return EraseRule{}
}

// EraseRules returns the rules that are set, in the order in which they were.
func (s *State) EraseRules() []Record { return bySeq(maps.Values(s.eraseRules)) }

// Purged is when the removed rows of a partition were last made to leave the disk; zero for never.
func (s *State) Purged(partition int) time.Time { return s.purged[partition] }

// LastRun is the newest word of a run over all tenants of a shard that came to its end; Seq is 0 when there is none.
func (s *State) LastRun(shard string) Record { return s.runs[shard] }

// Decided returns what people decided after a sequence, oldest first: everything but cuts and what was done.
func (s *State) Decided(after uint64) []Record {
	i, _ := slices.BinarySearchFunc(s.decided, after+1, func(r Record, seq uint64) int { return cmp.Compare(r.Seq, seq) })
	return s.decided[i:]
}

// Rules returns the rules that are set, those of all tenants first.
func (s *State) Rules() []Record {
	out := byPrefix(s.all)
	for _, t := range slices.SortedFunc(maps.Keys(s.own), compareIDs) {
		out = append(out, byPrefix(s.own[t])...)
	}
	return out
}

// Own says whether the tenant has rules of its own, or has left: then Bounds are its own too.
func (s *State) Own(tenant uuid.UUID) bool {
	_, left := s.offboarded[tenant]
	return left || len(s.own[tenant]) > 0
}

// OwnTenants returns the tenants for which Own is true, in order.
func (s *State) OwnTenants() []uuid.UUID {
	set := map[uuid.UUID]bool{}
	for t := range s.offboarded {
		set[t] = true
	}
	for t, rules := range s.own {
		if len(rules) > 0 {
			set[t] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), compareIDs)
}

// Bounds returns what events of a tenant may go at a time, by the longest prefix. A tenant's rules come before those of all tenants: of the latter only
// those count whose actions no rule of the tenant speaks of. nil stands for a tenant without rules of its own.
func (s *State) Bounds(tenant *uuid.UUID, now time.Time) []Bound {
	rules := map[string]int{"": DefaultDays}
	for prefix, r := range s.all {
		rules[prefix] = r.Retention.Days
	}
	if tenant != nil {
		if _, left := s.offboarded[*tenant]; left {
			return []Bound{{Before: math.MaxInt64}}
		}
		for prefix := range s.own[*tenant] {
			maps.DeleteFunc(rules, func(general string, _ int) bool { return strings.HasPrefix(general, prefix) })
		}
		for prefix, r := range s.own[*tenant] {
			rules[prefix] = r.Retention.Days
		}
	}
	out := make([]Bound, 0, len(rules))
	for prefix, days := range rules {
		out = append(out, Bound{Prefix: prefix, Before: now.Add(-time.Duration(days) * day).UnixMicro()})
	}
	slices.SortFunc(out, func(a, b Bound) int { return cmp.Compare(a.Prefix, b.Prefix) })
	return out
}

func byPrefix(rules map[string]Record) []Record {
	out := make([]Record, 0, len(rules))
	for _, prefix := range slices.Sorted(maps.Keys(rules)) {
		out = append(out, rules[prefix])
	}
	return out
}

func bySeq(records func(func(Record) bool)) []Record {
	return slices.SortedFunc(records, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
}

func compareIDs(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }

// After is what is in force after the records alone.
func After(records ...Record) *State { return newState().with(records) }
