package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Limits, which tests lower.
var (
	// eraseSettle is how long after an erasure ingesters know of it. A pass over the table is believed to be the last when all that came in until then is in
	// the table before it begins.
	eraseSettle = time.Minute
	// maxTexts and maxTextBytes bound the metadata that are read, and changed by one statement for each year, at a time.
	maxTexts     = 20_000
	maxTextBytes = 4 << 20
)

// ErrPseudonym is returned for an actor who is a pseudonym.
var ErrPseudonym = errors.New("the actor is the pseudonym of somebody who was erased")

// EraseLine is what changed, or would change, of one year in one partition.
type EraseLine struct {
	Partition int `json:"partition"`
	Year      int `json:"year"`
	// Events are rows: a copy of an event counts as one.
	Events uint64 `json:"events"`
}

// EraseReport is the outcome of an erasure.
type EraseReport struct {
	// Pseudonym is empty when it is not known yet: in a dry run.
	Pseudonym string      `json:"pseudonym,omitempty"`
	Lines     []EraseLine `json:"lines"`
	Events    uint64      `json:"events"`
}

func (r *EraseReport) add(partition int, year uint16, n uint64) {
	if n == 0 {
		return
	}
	r.Events += n
	i := slices.IndexFunc(r.Lines, func(l EraseLine) bool { return l.Partition == partition && l.Year == int(year) })
	if i < 0 {
		i = len(r.Lines)
		r.Lines = append(r.Lines, EraseLine{Partition: partition, Year: int(year)})
	}
	r.Lines[i].Events += n
	slices.SortFunc(r.Lines, func(a, b EraseLine) int { return (a.Partition-b.Partition)*10_000 + a.Year - b.Year })
}

// errErased is why nothing is decided.
var errErased = errors.New("the actor is erased already, by the same rule")

// decideErase makes the decision that a tenant's actor is erased, with all that the tenant's rule names now.
func (s System) decideErase(state *control.State, tenant uuid.UUID, actor string) (d control.Decision, err error) {
	set := erasure.Of(state)
	if set.IsPseudonym(tenant, actor) {
		return d, fmt.Errorf("tenant %s: %w", tenant, ErrPseudonym)
	}
	e := control.Erase{Pseudonym: erasure.NewPseudonym(), Salt: ledger.Digest(erasure.NewSalt()), EraseRule: state.EraseRule(tenant)}
	if before := state.Erasures(tenant); len(before) > 0 {
		e.Salt = before[0].Erase.Salt
	}
	if p, erased := set.Find(tenant, actor); erased {
		if (control.EraseRule{Fields: p.Fields, ResourceTypes: p.ResourceTypes}).Covers(e.EraseRule) {
			return d, errErased
		}
		e.Pseudonym, e.Salt = p.Pseudonym, ledger.Digest(p.Salt)
	}
	if err := s.checkTenant(state, tenant); err != nil {
		return d, err
	}
	e.ActorHash = ledger.Digest(erasure.Hash(e.Salt[:], actor))
	return control.Decision{Kind: control.Erased, Tenant: &tenant, Erase: &e}, nil
}

// Erase decides that a tenant's actor is erased and replaces the actor by a pseudonym in all that is in the table. It returns an ErrHeld for a tenant on
// hold, unless it was decided before the hold. Who is erased already is not decided on again, but for what the tenant's rule has that it had not then; what
// is left of the change is done. r.Seq is 0 when nothing was decided.
func Erase(ctx context.Context, s System, tenant uuid.UUID, actor string, opts Options) (r control.Record, report EraseReport, err error) {
	if !s.Shard.Has(events.Partition(tenant, s.Partitions)) {
		return r, report, fmt.Errorf("tenant %s: %w", tenant, ErrOtherShard)
	}
	r, err = Decide(ctx, s.Log, func(state *control.State) (control.Decision, error) {
		d, err := s.decideErase(state, tenant, actor)
		d.By, d.Reason = opts.By, opts.Reason
		return d, err
	})
	if err != nil && !errors.Is(err, errErased) {
		return r, report, err
	}
	opts.Tenant = &tenant
	run := newRun(s, opts)
	if err == nil {
		if err := run.after(Decided); err != nil {
			return r, report, err
		}
		if err := Announce(ctx, s, r); err != nil {
			return r, report, err
		}
	}
	err = s.locked(ctx, func(ctx context.Context) error {
		state, err := s.Log.Load(ctx)
		if err != nil {
			return err
		}
		p, erased := erasure.Of(state).Find(tenant, actor)
		if !erased {
			return fmt.Errorf("%w: the erasure is not in it any more", control.ErrLost)
		}
		run.erased.Pseudonym = p.Pseudonym
		partition := events.Partition(tenant, s.Partitions)
		if err := run.erasePeople(ctx, partition, tenant, []erasure.Person{p}); err != nil {
			return err
		}
		if err := s.Table.Purge(ctx, partition); err != nil { // rows that were removed have names too
			return err
		}
		return run.noteErased(ctx)
	})
	return r, run.erased, err
}

// PlanErase says what Erase would change. It changes nothing.
func PlanErase(ctx context.Context, s System, tenant uuid.UUID, actor string) (EraseReport, error) {
	r := newRun(s, Options{Tenant: &tenant})
	state, err := s.Log.Load(ctx)
	if err != nil {
		return r.erased, err
	}
	p, _ := erasure.Of(state).Find(tenant, actor)
	d, err := s.decideErase(state, tenant, actor)
	switch {
	case errors.Is(err, errErased):
	case err != nil:
		return r.erased, err
	default:
		e := d.Erase
		if p.Pseudonym == "" {
			p = erasure.Person{Salt: e.Salt[:], Hash: e.ActorHash, Pseudonym: e.Pseudonym}
		} else {
			r.erased.Pseudonym = p.Pseudonym
		}
		p.Fields, p.ResourceTypes = append(p.Fields, e.Fields...), append(p.ResourceTypes, e.ResourceTypes...)
	}
	partition := events.Partition(tenant, s.Partitions)
	if !s.Shard.Has(partition) {
		return r.erased, fmt.Errorf("tenant %s: %w", tenant, ErrOtherShard)
	}
	return r.erased, r.count(ctx, erasures(partition, tenant, []erasure.Person{p})[0])
}

// FinishErasures replaces, in all that is in the table, those whose erasure was decided a while ago and is not known to be done: by a command that died, or
// beside ingesters that did not know of it yet.
func FinishErasures(ctx context.Context, s System, opts Options) (EraseReport, error) {
	r := newRun(s, opts)
	err := s.locked(ctx, func(ctx context.Context) error {
		state, err := s.Log.Load(ctx)
		if err != nil {
			return err
		}
		for _, t := range r.settled(state) {
			if err := r.eraseTenant(ctx, state, events.Partition(t, s.Partitions), t); err != nil {
				return err
			}
		}
		return r.noteErased(ctx)
	})
	return r.erased, err
}

// settled are the tenants with an erasure that a pass could call done.
func (r *run) settled(state *control.State) (out []uuid.UUID) {
	for _, e := range state.Erasing() {
		here := r.Shard.Has(events.Partition(*e.Tenant, r.Partitions))
		if here && r.opts.Now.Sub(e.At) >= eraseSettle && !slices.Contains(out, *e.Tenant) {
			out = append(out, *e.Tenant)
		}
	}
	return out
}

// erasePartition replaces everybody who was erased in a partition.
func (r *run) erasePartition(ctx context.Context, state *control.State, p int) error {
	for _, t := range state.ErasedTenants() {
		if events.Partition(t, r.Partitions) != p || r.opts.Tenant != nil && *r.opts.Tenant != t {
			continue
		}
		if err := r.eraseTenant(ctx, state, p, t); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) eraseTenant(ctx context.Context, state *control.State, p int, t uuid.UUID) error {
	return r.erasePeople(ctx, p, t, erasure.Of(state).People(t))
}

// erasePeople replaces people in a partition. Metadata go first and names last: who is still called by name is not done.
func (r *run) erasePeople(ctx context.Context, p int, t uuid.UUID, people []erasure.Person) error {
	last, err := r.lastPass(ctx, p, t)
	if err != nil {
		return err
	}
	for _, e := range erasures(p, t, people) {
		if err := r.count(ctx, e); err != nil {
			return err
		}
		if err := r.strip(ctx, e); err != nil {
			return err
		}
		if err := r.after(Stripped); err != nil {
			return err
		}
		years, err := r.Table.ErasedYears(ctx, e)
		if err != nil {
			return err
		}
		for _, y := range years {
			if err := r.Table.ReplaceNames(ctx, e, y.Year); err != nil {
				return err
			}
		}
		if err := r.after(Renamed); err != nil {
			return err
		}
		from, to, any, err := r.Table.ErasedHours(ctx, e)
		if err != nil {
			return err
		}
		if any {
			if err := r.Counts.RecountDays(ctx, p, from, to, []uuid.UUID{t}); err != nil {
				return err
			}
		}
	}
	for _, person := range people {
		for _, d := range person.Decisions {
			if slices.Contains(last, d) {
				r.erasures = append(r.erasures, d)
			}
		}
	}
	return r.after(Recounted)
}

// lastPass returns the open erasures of a tenant that a pass which begins now is the last for: no ingester can bring the name in any more.
func (r *run) lastPass(ctx context.Context, p int, t uuid.UUID) (out []uint64, err error) {
	state, err := r.Log.Load(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range state.Erasing() {
		if *e.Tenant != t || r.opts.Now.Sub(e.At) < eraseSettle {
			continue
		}
		known, err := r.Stream.SeqAt(ctx, e.At.Add(eraseSettle))
		if err != nil {
			return nil, err
		}
		in, err := r.through(ctx, p)
		if err != nil {
			return nil, err
		}
		next, found, err := r.Stream.First(ctx, p, in+1)
		if err != nil {
			return nil, err
		}
		if !found || next >= known {
			out = append(out, e.Seq)
		}
	}
	return out, nil
}

// count counts what is to change.
func (r *run) count(ctx context.Context, e clickhouse.Erasure) error {
	fields := erasure.FieldSet(e.People[0].Fields)
	if len(fields) > 0 {
		return r.Table.ErasedTexts(ctx, e, func(t clickhouse.ErasedText) error {
			if _, changed := fields.Strip([]byte(t.Metadata)); changed || t.Clear {
				r.erased.add(e.Partition, t.Year, 1)
			}
			return nil
		})
	}
	years, err := r.Table.ErasedYears(ctx, e)
	for _, y := range years {
		r.erased.add(e.Partition, y.Year, y.Rows)
	}
	return err
}

// errFull ends reading when there is enough for a statement of each year.
var errFull = errors.New("enough")

// strip changes metadata, a bounded part at a time: what was changed is not found again.
func (r *run) strip(ctx context.Context, e clickhouse.Erasure) error {
	fields := erasure.FieldSet(e.People[0].Fields)
	for full := len(fields) > 0; full; {
		texts, n, bytes := map[uint16]map[uint64]string{}, 0, 0
		err := r.Table.ErasedTexts(ctx, e, func(t clickhouse.ErasedText) error {
			stripped, changed := fields.Strip([]byte(t.Metadata))
			if !changed {
				return nil
			}
			if texts[t.Year] == nil {
				texts[t.Year] = map[uint64]string{}
			}
			texts[t.Year][t.Seq] = string(stripped)
			if n, bytes = n+1, bytes+len(stripped); n < maxTexts && bytes < maxTextBytes {
				return nil
			}
			return errFull
		})
		if full = errors.Is(err, errFull); err != nil && !full {
			return err
		}
		for year, of := range texts {
			if err := r.Table.SetMetadata(ctx, e, year, of); err != nil {
				return err
			}
		}
	}
	return nil
}

// erasures joins people of whom one statement can speak.
func erasures(p int, t uuid.UUID, people []erasure.Person) (out []clickhouse.Erasure) {
	at := map[string]int{}
	for _, person := range people {
		key := fmt.Sprintf("%x %q %q", person.Salt, person.Fields, person.ResourceTypes)
		i, there := at[key]
		if !there || len(out[i].People) == clickhouse.MaxErased {
			i = len(out)
			at[key] = i
			out = append(out, clickhouse.Erasure{Partition: p, Tenant: t, Salt: person.Salt, ResourceTypes: person.ResourceTypes})
		}
		out[i].People = append(out[i].People, person)
	}
	return out
}

// noteErased tells the log which erasures the table follows.
func (r *run) noteErased(ctx context.Context) error {
	state, err := r.Log.Load(ctx)
	if err != nil {
		return err
	}
	done := r.doneErasures(state)
	if len(done) == 0 {
		return nil
	}
	_, err = Decide(ctx, r.Log, func(*control.State) (control.Decision, error) {
		return control.Decision{Kind: control.Done, By: r.opts.By, Done: &control.Finished{Shard: r.Shard.String(), Erasures: done}}, nil
	})
	return err
}

// doneErasures are the open ones that this run was the last for.
func (r *run) doneErasures(state *control.State) (out []uint64) {
	for _, e := range state.Erasing() {
		if slices.Contains(r.erasures, e.Seq) {
			out = append(out, e.Seq)
		}
	}
	return out
}
