// Package control writes down what operators decide about events that are stored: how long they are kept, who is on legal hold, what is erased, who has
// left, and what is about to be removed because of it. docs/design/007-lifecycle.md says why this way.
//
// The decisions are one chain in the stream AUDIT_CONTROL, appended by compare-and-set on the stream's last sequence: who decides on the ground of a state
// that is not the newest any more is refused. A copy of the chain is in ClickHouse. The stream of events never forgets what was removed from the table; this
// log is what keeps it out of a table that is built anew, so a log that has lost its end is worse than none, and is refused.
package control

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// Kind is what a decision is about.
type Kind string

// The kinds.
const (
	// RetentionSet sets how long events are kept, of one tenant or of all, with one beginning of their actions.
	RetentionSet Kind = "retention.set"
	// RetentionUnset takes such a rule back.
	RetentionUnset Kind = "retention.unset"
	// HoldSet puts a tenant on legal hold: nothing of it is removed or changed.
	HoldSet Kind = "hold.set"
	// HoldRelease ends it.
	HoldRelease Kind = "hold.release"
	// Erased replaces an actor of a tenant by a pseudonym.
	Erased Kind = "erase"
	// EraseRuleSet sets what goes with actors of a tenant that are erased from then on; EraseRuleUnset takes that back.
	EraseRuleSet   Kind = "erase.rule.set"
	EraseRuleUnset Kind = "erase.rule.unset"
	// Offboarded says that a tenant has left: all of its events are to go, those that are yet to come included.
	Offboarded Kind = "offboard"
	// Removal is a cut: rows that are removed from the table from here on.
	Removal Kind = "cut"
	// Done says that the rows of cuts are gone from the table.
	Done Kind = "done"
)

// Decision is one entry of the log. Exactly the part that belongs to its kind is set.
type Decision struct {
	Kind Kind `json:"kind"`
	// ID is unique to the decision; the ids of the audit events that tell of it are made of it.
	ID uuid.UUID `json:"id"`
	// Tenant is whom it is about; nil: all tenants.
	Tenant *uuid.UUID `json:"tenant_id,omitempty"`
	// At is when it was taken, by the clock of who took it.
	At time.Time `json:"at"`
	// By is who took it, Reason why.
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
	// PrevHash is the hash of the decision before, zero for the first.
	PrevHash ledger.Digest `json:"prev_hash"`

	Retention *Retention `json:"retention,omitempty"`
	Erase     *Erase     `json:"erase,omitempty"`
	EraseRule *EraseRule `json:"erase_rule,omitempty"`
	Cut       *Cut       `json:"cut,omitempty"`
	Done      *Finished  `json:"done,omitempty"`
}

// Retention is a rule: events whose action begins with Prefix are kept for Days days after their created_at.
type Retention struct {
	// Prefix is the beginning of the action; empty: every action.
	Prefix string `json:"action_prefix"`
	// Days is at least 1; 0 in a RetentionUnset.
	Days int `json:"days,omitempty"`
}

// SaltBytes is how long a salt is.
const SaltBytes = 32

// Erase is how an actor is replaced. The actor's clear name is nowhere in it.
type Erase struct {
	// Pseudonym takes the actor's place.
	Pseudonym string `json:"pseudonym"`
	// ActorHash is SHA-256 over Salt and the actor's id, by which the actor is known again. Salt is random, and one for all actors of a tenant.
	ActorHash ledger.Digest `json:"actor_hash"`
	Salt      ledger.Digest `json:"salt"`
	// EraseRule is what goes with the name.
	EraseRule
}

// EraseRule is what goes with an actor who is erased.
type EraseRule struct {
	// Fields are keys of metadata whose values go.
	Fields []string `json:"fields,omitempty"`
	// ResourceTypes are those of which a resource may be the actor: then resource_id goes, too.
	ResourceTypes []string `json:"resource_types,omitempty"`
}

// Bounds of an EraseRule.
const (
	MaxEraseNames     = 100
	MaxEraseNameBytes = 256
)

// Validate says what is wrong with a rule; nil when nothing is.
func (r EraseRule) Validate() error {
	names := slices.Concat(r.Fields, r.ResourceTypes)
	if len(names) > MaxEraseNames {
		return fmt.Errorf("%d fields and types of resources, at most %d can be", len(names), MaxEraseNames)
	}
	for _, n := range names {
		if n == "" || len(n) > MaxEraseNameBytes || !utf8.ValidString(n) {
			return fmt.Errorf("a field or a type of resources must be UTF-8 of 1 to %d bytes", MaxEraseNameBytes)
		}
	}
	return nil
}

// Covers says whether all that goes by another rule goes by this one.
func (r EraseRule) Covers(other EraseRule) bool {
	in := func(names []string) func(string) bool {
		return func(n string) bool { return !slices.Contains(names, n) }
	}
	return !slices.ContainsFunc(other.Fields, in(r.Fields)) && !slices.ContainsFunc(other.ResourceTypes, in(r.ResourceTypes))
}

// Cut is a removal that is about to be done, of one tenant's rows. A row is covered when its sequence is at most Through and its created_at is before the
// bound of the longest prefix that its action begins with.
type Cut struct {
	// Partition is the tenant's.
	Partition int `json:"partition"`
	// Mark is what the rows' tombstones carry, unique to the cut.
	Mark   uint64  `json:"mark"`
	Bounds []Bound `json:"bounds"`
	// Through is the highest sequence of the stream that is covered.
	Through uint64 `json:"through"`
	// Rows is how many tombstones there are.
	Rows uint64 `json:"rows"`
	// MinCreated and MaxCreated bound created_at of the rows, in microseconds since 1970.
	MinCreated int64 `json:"min_created"`
	MaxCreated int64 `json:"max_created"`
}

// Bound is up to when events go.
type Bound struct {
	// Prefix is the beginning of the action; empty: every action.
	Prefix string `json:"action_prefix"`
	// Before is the first created_at that stays, in microseconds since 1970. math.MaxInt64: none does.
	Before int64 `json:"before"`
}

// Finished says that cuts are done.
type Finished struct {
	// Shard is the ClickHouse server it was done on, as AUDIT_SHARD says it.
	Shard string `json:"shard"`
	// Cuts are the sequences of cuts in the log; empty when a run found nothing to remove.
	Cuts []uint64 `json:"cuts,omitempty"`
	// Erasures are the sequences of erasures that the table follows.
	Erasures []uint64 `json:"erasures,omitempty"`
	// Purged are the partitions whose removed rows are not on the disk any more.
	Purged []int `json:"purged,omitempty"`
	// Whole says that it was a run over all tenants of the shard.
	Whole bool `json:"whole"`
}

// Record is a decision as it stands in the log.
type Record struct {
	Decision
	// Seq is its sequence in the stream; the first is 1 and there is no gap.
	Seq uint64 `json:"seq"`
	// Hash is SHA-256 over the bytes of the decision, which hold the hash of the one before.
	Hash ledger.Digest `json:"hash"`
	// Data are those bytes.
	Data []byte `json:"-"`
}

// MaxPrefixBytes bounds an action prefix, as an action is bounded.
const MaxPrefixBytes = 256

// MaxDays bounds a retention: what has the time of 1970 is kept for ever by it.
const MaxDays = 36500

// validate says what is wrong with a decision; nil when nothing is.
func (d *Decision) validate() error {
	parts := 0
	for _, set := range []bool{d.Retention != nil, d.Erase != nil, d.EraseRule != nil, d.Cut != nil, d.Done != nil} {
		if set {
			parts++
		}
	}
	needs := func(part bool, tenant bool) error {
		want := 0
		if part {
			want = 1
		}
		if parts != want {
			return errors.New("it has not the part that belongs to its kind, or others")
		}
		if tenant && d.Tenant == nil {
			return errors.New("it has no tenant")
		}
		return nil
	}
	switch d.Kind {
	case RetentionSet, RetentionUnset:
		return errors.Join(needs(d.Retention != nil || parts == 0, false), d.Retention.validate(d.Kind == RetentionUnset))
	case HoldSet, HoldRelease, Offboarded:
		return needs(false, true)
	case Erased:
		var none ledger.Digest
		if d.Erase == nil || d.Erase.Pseudonym == "" || d.Erase.ActorHash == none || d.Erase.Salt == none {
			return errors.New("it lacks the pseudonym, the hash of the actor or its salt")
		}
		return errors.Join(needs(true, true), d.Erase.Validate())
	case EraseRuleSet:
		if d.EraseRule == nil || len(d.EraseRule.Fields)+len(d.EraseRule.ResourceTypes) == 0 {
			return errors.New("it has no rule")
		}
		return errors.Join(needs(true, true), d.EraseRule.Validate())
	case EraseRuleUnset:
		return needs(false, true)
	case Removal:
		if d.Cut == nil || len(d.Cut.Bounds) == 0 || d.Cut.Through == 0 {
			return errors.New("it covers nothing")
		}
		return needs(true, true)
	case Done:
		if d.Done == nil {
			return errors.New("it says nothing")
		}
		return needs(true, false)
	}
	return fmt.Errorf("%q is no kind of decision that this program knows: run a newer one", d.Kind)
}

func (r *Retention) validate(unset bool) error {
	switch {
	case r == nil:
		return errors.New("it has no rule")
	case len(r.Prefix) > MaxPrefixBytes:
		return fmt.Errorf("the action prefix has %d bytes, at most %d can be", len(r.Prefix), MaxPrefixBytes)
	case unset && r.Days == 0:
		return nil
	case unset || r.Days < 1 || r.Days > MaxDays:
		return fmt.Errorf("%d days: must be from 1 to %d", r.Days, MaxDays)
	}
	return nil
}

// decode reads the decision at a sequence of the stream.
func decode(data []byte, seq uint64) (Record, error) {
	r := Record{Seq: seq, Data: data, Hash: sha256.Sum256(data)}
	err := json.Unmarshal(data, &r.Decision)
	if err == nil {
		err = r.validate()
	}
	if err != nil {
		return Record{}, fmt.Errorf("%w: sequence %d: %w", ErrCorrupt, seq, err)
	}
	return r, nil
}
