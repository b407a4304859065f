// Package lifecycle removes from the event table what the decisions of the control log say is to go. docs/design/007-lifecycle.md says why this way.
//
// The order of things is what makes it safe:
//
//  1. Tombstones are written for the rows of a tenant that are covered, and counted.
//  2. The cut, with that count, is appended to the control log, if nothing was decided since it was looked whether the tenant is on hold.
//  3. The rows are removed, and the hourly counts follow.
//  4. The log is told that the cut is done.
//
// A run that dies before 2 leaves tombstones that no cut speaks of, beside their rows; the next run deletes them. One that dies after it leaves a cut that is
// open; the next run goes on at 3, whatever was decided meanwhile.
package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/shard"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/ledger"
)

const (
	// maxTries bounds how often a cut is tried that other decisions come before.
	maxTries = 100
	// maxDone bounds the cuts that one decision says are done.
	maxDone = 1000
	// purgeAge is how long rows that are removed may still lie on the disk, in parts that others share with them.
	purgeAge = 7 * 24 * time.Hour
)

// ErrRebuild is returned when the event table is being built anew: rows that are removed from the old one would come back with the new one.
var ErrRebuild = errors.New("a rebuild of the event table is under way or was interrupted: let it end, or clear it with `ingester rebuild --abort`")

// Positions says up to which sequence a partition's events are in the table.
type Positions interface {
	Get(ctx context.Context, partition int) (ledger.Position, error)
}

// Stream is the stream of events.
type Stream interface {
	// SeqAt returns the sequence of the first message that came in at or after t, or one past the last when there is none.
	SeqAt(ctx context.Context, t time.Time) (uint64, error)
	// First returns the sequence of the partition's first message from a sequence on; found is false when there is none.
	First(ctx context.Context, partition int, from uint64) (seq uint64, found bool, err error)
}

// Counts are the hourly counts, which are to follow.
type Counts interface {
	// Recount counts the days from one time to another, both included, anew; of these tenants, or of all when it is nil.
	RecountDays(ctx context.Context, partition int, from, to time.Time, tenants []uuid.UUID) error
}

// Announcer publishes decisions as audit events. What was published before may be published again.
type Announcer interface {
	Announce(ctx context.Context, r control.Record, tenants []uuid.UUID) error
}

// System is what a run works with.
type System struct {
	Log       *control.Log
	Table     *clickhouse.Store
	Positions Positions
	Stream    Stream
	Counts    Counts
	Announcer Announcer
	// Partitions is how many the stream has, Shard which of them Table has.
	Partitions int
	Shard      shard.Shard
	Logger     *slog.Logger
}

// Options says what to do.
type Options struct {
	// By is who does it, Reason why.
	By, Reason string
	// Tenant narrows it to one tenant; nil: all.
	Tenant *uuid.UUID
	// Purge makes the rows leave the disk at once, too, instead of within purgeAge.
	Purge bool
	// Now is the time that retention counts back from; zero: the time of the run.
	Now time.Time
	// After, when set, is called after each step, by tests. An error ends the run as a crash would.
	After func(Step) error
}

// Step is what a run has come to.
type Step string

// The steps.
const (
	// Looked: the state was read and is about to be decided on.
	Looked Step = "looked"
	// Buried: the tombstones of a tenant are written.
	Buried Step = "buried"
	// Cut: the cut is in the log.
	Cut Step = "cut"
	// Removed: the rows are gone.
	Removed Step = "removed"
	// Decided: an erasure is in the log.
	Decided Step = "decided"
	// Stripped: metadata of people who are erased are changed; Renamed: their names are; Recounted: so are the counts.
	Stripped  Step = "stripped"
	Renamed   Step = "renamed"
	Recounted Step = "recounted"
)

// Line is what went, or would go, of one tenant under one rule.
type Line struct {
	Tenant uuid.UUID `json:"tenant_id"`
	// Prefix is the rule's; empty for that of every action.
	Prefix string `json:"action_prefix"`
	Rows   uint64 `json:"rows"`
	// Oldest and Newest bound created_at of the rows.
	Oldest time.Time `json:"oldest"`
	Newest time.Time `json:"newest"`
	// Held says that the tenant is on hold, so that they stay.
	Held bool `json:"held"`
}

// Report is the outcome of a run.
type Report struct {
	// Lines are in the order of tenants and prefixes. They count copies of an event, as the table has them.
	Lines []Line `json:"lines"`
	// Finished is how many cuts of an earlier run were still to be done, Rows how many rows were removed by the cuts of this one.
	Finished int    `json:"finished"`
	Rows     uint64 `json:"rows"`
	Cuts     int    `json:"cuts"`
	// Erased is how many rows still had the name of somebody who was erased, and have not any more.
	Erased uint64 `json:"erased"`
}

// run is one run.
type run struct {
	System
	opts   Options
	report Report
	done   []control.Record // cuts whose rows are gone
	purged []int            // partitions

	erased   EraseReport
	erasures []uint64 // sequences of erasures that were seen to
}

// Plan says what a run would remove now. It changes nothing.
func Plan(ctx context.Context, s System, opts Options) (Report, error) {
	r := newRun(s, opts)
	state, err := s.Log.Load(ctx)
	if err != nil {
		return Report{}, err
	}
	for _, p := range r.partitions() {
		through, err := r.through(ctx, p)
		if err != nil {
			return Report{}, err
		}
		lines, err := r.look(ctx, state, p, through)
		if err != nil {
			return Report{}, err
		}
		r.report.Lines = append(r.report.Lines, lines...)
	}
	r.sortLines()
	return r.report, nil
}

// Run removes what is to go now. It waits until no other run and no rebuild is under way. It can be done over after a failure.
func Run(ctx context.Context, s System, opts Options) (Report, error) {
	r := newRun(s, opts)
	err := s.locked(ctx, r.run)
	return r.report, err
}

// locked calls fn while nobody else removes or changes rows, and no rebuild is under way.
func (s System) locked(ctx context.Context, fn func(context.Context) error) error {
	held, release, err := s.Table.LockRemoval(ctx)
	if err != nil {
		return err
	}
	defer release()
	beside, err := s.Table.Beside(held)
	if err == nil && beside != (clickhouse.Beside{}) {
		err = ErrRebuild
	}
	if err == nil {
		err = fn(held)
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(held); cause != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("change stored events: %w", err)
}

func newRun(s System, opts Options) *run {
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	return &run{System: s, opts: opts, report: Report{Lines: []Line{}}, erased: EraseReport{Lines: []EraseLine{}}}
}

// partitions are those that it is about.
func (r *run) partitions() []int {
	all := r.Shard.Partitions(r.Partitions)
	if r.opts.Tenant == nil {
		return all
	}
	return slices.DeleteFunc(all, func(p int) bool { return p != events.Partition(*r.opts.Tenant, r.Partitions) })
}

func (r *run) run(ctx context.Context) error {
	before, err := r.Log.Load(ctx)
	if err != nil {
		return err
	}
	if err := r.finish(ctx, before); err != nil {
		return err
	}
	for _, p := range r.partitions() {
		if err := r.partition(ctx, p); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	r.sortLines()
	if err := r.announce(ctx, before); err != nil {
		return err
	}
	return r.note(ctx)
}

// through is the highest sequence of the partition that is known to be in the table. What is being inserted is not touched.
func (r *run) through(ctx context.Context, p int) (uint64, error) {
	pos, err := r.Positions.Get(ctx, p)
	return pos.LastSeq, err
}

// look says what of a partition is to go.
func (r *run) look(ctx context.Context, state *control.State, p int, through uint64) (lines []Line, err error) {
	if through == 0 {
		return nil, nil
	}
	general := clickhouse.Coverage{Partition: p, Through: through, Bounds: state.Bounds(nil, r.opts.Now)}
	own := state.OwnTenants()
	if r.opts.Tenant != nil {
		general.Tenants = []uuid.UUID{*r.opts.Tenant}
		own = slices.DeleteFunc(own, func(t uuid.UUID) bool { return t != *r.opts.Tenant })
	}
	all, err := r.Table.Removable(ctx, general)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m clickhouse.Removable) bool { return state.Own(m.Tenant) })
	for _, t := range own {
		if events.Partition(t, r.Partitions) != p {
			continue
		}
		of, err := r.Table.Removable(ctx, clickhouse.Coverage{Partition: p, Through: through, Bounds: state.Bounds(&t, r.opts.Now), Tenants: []uuid.UUID{t}})
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	return linesOf(state, all), nil
}

func linesOf(state *control.State, rows []clickhouse.Removable) (lines []Line) {
	for _, m := range rows {
		_, held := state.Held(m.Tenant)
		lines = append(lines, Line{Tenant: m.Tenant, Prefix: m.Prefix, Rows: m.Rows, Held: held,
			Oldest: time.UnixMicro(m.MinCreated).UTC(), Newest: time.UnixMicro(m.MaxCreated).UTC()})
	}
	return lines
}

// partition cuts and removes what is to go of a partition.
func (r *run) partition(ctx context.Context, p int) error {
	through, err := r.through(ctx, p)
	if err != nil {
		return err
	}
	state, err := r.Log.Load(ctx)
	if err != nil {
		return err
	}
	lines, err := r.look(ctx, state, p, through)
	if err != nil {
		return err
	}
	r.report.Lines = append(r.report.Lines, lines...)
	var cuts []control.Record
	for _, of := range byTenant(lines) {
		c, err := r.cut(ctx, p, through, of)
		if err != nil {
			return err
		}
		if c != nil {
			cuts = append(cuts, *c)
			r.report.Cuts++
			r.report.Rows += c.Cut.Rows
		}
	}
	if err := r.remove(ctx, p, cuts); err != nil {
		return err
	}
	// What an ingester brought in before it knew of an erasure, or a backup.
	if err := r.erasePartition(ctx, state, p); err != nil {
		return err
	}
	r.report.Erased = r.erased.Events
	if r.opts.Purge || r.opts.Now.Sub(state.Purged(p)) >= purgeAge {
		r.purged = append(r.purged, p)
		return r.Table.Purge(ctx, p)
	}
	return nil
}

// byTenant joins the lines of each tenant.
func byTenant(lines []Line) (out [][]Line) {
	sortLines(lines)
	for _, l := range lines {
		if n := len(out); n > 0 && out[n-1][0].Tenant == l.Tenant {
			out[n-1] = append(out[n-1], l)
			continue
		}
		out = append(out, []Line{l})
	}
	return out
}

// note tells the log which cuts are done, and that there was a run.
func (r *run) note(ctx context.Context) error {
	seqs := []uint64{}
	for _, c := range r.done {
		seqs = append(seqs, c.Seq)
	}
	state, err := r.Log.Load(ctx)
	if err != nil {
		return err
	}
	erasures := r.doneErasures(state)
	for {
		n := min(len(seqs), maxDone)
		done := &control.Finished{Shard: r.Shard.String(), Cuts: seqs[:n], Erasures: erasures, Purged: r.purged, Whole: r.opts.Tenant == nil}
		if _, err := Decide(ctx, r.Log, func(*control.State) (control.Decision, error) {
			return control.Decision{Kind: control.Done, By: r.opts.By, Done: done}, nil
		}); err != nil {
			return err
		}
		if seqs = seqs[n:]; len(seqs) == 0 {
			return nil
		}
	}
}

// Decide appends the decision that choose makes of what is in force, and asks it anew as long as others are faster.
func Decide(ctx context.Context, l *control.Log, choose func(*control.State) (control.Decision, error)) (control.Record, error) {
	for range maxTries {
		state, err := l.Load(ctx)
		if err != nil {
			return control.Record{}, err
		}
		d, err := choose(state)
		if err != nil {
			return control.Record{}, err
		}
		r, err := l.Append(ctx, state, d)
		if !errors.Is(err, control.ErrMoved) {
			return r, err
		}
	}
	return control.Record{}, fmt.Errorf("decide: %w, %d times", control.ErrMoved, maxTries)
}

func (r *run) after(s Step) error {
	if r.opts.After == nil {
		return nil
	}
	return r.opts.After(s)
}

func (r *run) sortLines() { sortLines(r.report.Lines) }

func sortLines(lines []Line) {
	slices.SortFunc(lines, func(a, b Line) int {
		if c := slices.Compare(a.Tenant[:], b.Tenant[:]); c != 0 {
			return c
		}
		return slices.Compare([]byte(a.Prefix), []byte(b.Prefix))
	})
}

// newMark is unique to a cut.
func newMark() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
