// Package repartition changes the number of partitions of a system that has data.
//
// The order of things is what makes it safe; docs/design/008-partition-count.md tells why. Begin:
//
//  1. The stream is closed: producers keep their events. The ingesters finish what is there, and stop. Ledger, stream and table agree.
//  2. The stream is opened and sorts by the new number. Nobody reads it yet. Its last sequence before that is the border.
//  3. The rows, all of them up to the border, are copied to a table beside, each in its new partition, and compared. Readers still have the old one.
//
// Finish, while no query service runs:
//
//  4. The tables are swapped, and the tombstones get their new partitions, by the tenants of their cuts. The old ledger is saved; ledger and positions are
//     made anew, and the stream is trimmed to the border, for up to there everything is in the table and sorted by the old number in the stream. The new
//     ledger says what the table has up to the border.
//  5. Verified again. The old table goes, and then the mark.
//
// What was done is written down in the stream's metadata before what follows, so each can be run again after it died, and nothing else starts meanwhile.
package repartition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/repartition"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/verify"
)

// Errors.
var (
	// ErrWaited is returned when the ingesters do not finish, or do not stop, in time. The stream is open again, as it was.
	ErrWaited = errors.New("waited too long; nothing was changed")
	// ErrDisagree is returned when ledger, stream and table do not agree, before or after.
	ErrDisagree = errors.New("ledger, stream and table do not agree: `ingester verify` says what is wrong")
	// ErrPhase is returned when a change is not at the step that was asked for.
	ErrPhase = errors.New("not now")
)

// poll is how often something that others do is looked at.
const poll = 200 * time.Millisecond

// reopenTimeout bounds opening the stream again after a failure.
const reopenTimeout = 30 * time.Second

// Change is the change of a system from one number of partitions to another.
type Change struct {
	verify.System // by the old number
	JS            natsjs.JetStream
	// Shape is of the streams, Shape.Partitions the old number.
	Shape jetstream.Shape
	// To is the new number.
	To int
	// Wait bounds each of the two waits for the ingesters.
	Wait time.Duration
	// ReadersWait is how long query services have to notice that they must not read.
	ReadersWait time.Duration
	// Writer names this process in the ledger.
	Writer string
	// Say tells a person what to do.
	Say func(string)
	Log *slog.Logger
	// After, when set, is called after each step, by tests. An error ends the run as a crash would.
	After func(Step) error
}

// Step is what a change has come to.
type Step string

// The steps, in their order.
const (
	// Closed: the stream takes nothing.
	Closed Step = "closed"
	// Drained: everything is in the table.
	Drained Step = "drained"
	// Opened: the stream sorts by the new number.
	Opened Step = "opened"
	// Copied: the table beside is whole.
	Copied Step = "copied"
	// Begun: that is written down.
	Begun Step = "begun"
	// Saved: the old ledger is in its file.
	Saved Step = "saved"
	// Shut: nobody may read.
	Shut Step = "shut"
	// Swapped: the new table is live.
	Swapped Step = "swapped"
	// Counted: the counts by hour, and the tombstones, are in their new partitions.
	Counted Step = "counted"
	// Resetting: that ledger and stream are next is written down.
	Resetting Step = "resetting"
	// Forgotten: the ledger is empty, the stream trimmed.
	Forgotten Step = "forgotten"
	// Proven: the new ledger is written and agrees.
	Proven Step = "proven"
	// Dropped: the old table is gone.
	Dropped Step = "dropped"
)

func (c *Change) after(s Step) error {
	if c.After == nil {
		return nil
	}
	return c.After(s)
}

// exclusive does something while nobody removes rows; a run of retention that is under way is waited for.
func (c *Change) exclusive(ctx context.Context, do func(context.Context) error) error {
	held, release, err := c.Table.LockRemoval(ctx)
	if err != nil {
		return err
	}
	defer release()
	err = do(held)
	if cause := context.Cause(held); err != nil && cause != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// to is the same system by the new number.
func (c *Change) to() verify.System {
	s := c.System
	s.Partitions = c.To
	return s
}

// set writes down how far the change is; the stream sorts by so many.
func (c *Change) set(ctx context.Context, partitions int, state *repartition.State) error {
	shape := c.Shape
	shape.Partitions = partitions
	return shape.SetRepartition(ctx, c.JS, state)
}

// reach is set, and then the step.
func (c *Change) reach(ctx context.Context, partitions int, state *repartition.State, s Step) error {
	if err := c.set(ctx, partitions, state); err != nil {
		return err
	}
	return c.after(s)
}

// state is the change that is under way, which must be this one.
func (c *Change) state(ctx context.Context) (*repartition.State, error) {
	s, err := jetstream.Repartition(ctx, c.JS)
	if err == nil && s != nil && (s.From != c.Partitions || s.To != c.To) {
		err = fmt.Errorf("%w: a change from %d to %d partitions is under way; this one is from %d to %d", ErrPhase, s.From, s.To, c.Partitions, c.To)
	}
	return s, err
}

// Begin does the steps 1 to 3.
func (c *Change) Begin(ctx context.Context) error { return c.exclusive(ctx, c.begin) }

func (c *Change) begin(ctx context.Context) error {
	state, err := c.state(ctx)
	if err != nil {
		return err
	}
	if state == nil {
		if err := jetstream.CheckPartitions(ctx, c.JS, c.Shape); err != nil {
			return err
		}
	}
	if state == nil || state.Phase == repartition.Closed {
		if state, err = c.close(ctx); err != nil {
			return err
		}
	}
	switch state.Phase {
	case repartition.Copying:
	case repartition.Copied:
		return nil
	default:
		return fmt.Errorf("%w: %w", ErrPhase, repartition.UnderwayError{State: *state})
	}
	c.Say("Producers go on. Copying the table; query services may run, ingesters may not.")
	// If we die here: the next one copies anew.
	if err := c.Table.CopyRepartitioned(ctx, c.To); err != nil {
		return err
	}
	if err := c.after(Copied); err != nil {
		return err
	}
	state.Phase = repartition.Copied
	return c.reach(ctx, c.To, state, Begun)
}

// close brings everything that the stream has into the table, without ingesters in the end, and opens the stream by the new number. When that fails
// the stream is opened as it was.
func (c *Change) close(ctx context.Context) (*repartition.State, error) {
	beside, err := c.Table.Beside(ctx)
	if err != nil {
		return nil, err
	}
	if beside != (clickhouse.Beside{}) {
		return nil, fmt.Errorf("%w: a rebuild is under way: finish it, or clear it with `ingester rebuild --abort`", ErrPhase)
	}
	state := &repartition.State{From: c.Partitions, To: c.To, Phase: repartition.Closed}
	if err := c.reach(ctx, c.Partitions, state, Closed); err != nil {
		return nil, err
	}
	if state.Through, err = c.drain(ctx); err != nil {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reopenTimeout)
		defer cancel()
		return nil, errors.Join(err, c.set(rctx, c.Partitions, nil))
	}
	if err := c.after(Drained); err != nil {
		return nil, err
	}
	state.Phase = repartition.Copying
	return state, c.reach(ctx, c.To, state, Opened)
}

// drain waits until the ingesters have everything in the table and are gone, and returns the last sequence.
func (c *Change) drain(ctx context.Context) (uint64, error) {
	c.Say("The stream is closed: producers keep their events. Waiting until the ingesters have everything in the table.")
	if err := c.until(ctx, "everything is in the table", c.drained); err != nil {
		return 0, err
	}
	c.Say("Everything is in the table. Stop all ingesters now.")
	if err := c.until(ctx, "no ingester runs", c.alone); err != nil {
		return 0, err
	}
	report, err := verify.Run(ctx, c.System, verify.Options{})
	if err != nil {
		return 0, err
	}
	if !report.OK() || report.Waiting+report.Pending > 0 {
		return 0, ErrDisagree
	}
	if err := c.checkTombstones(ctx); err != nil {
		return 0, err
	}
	_, last, err := c.Reader.Bounds(ctx)
	return last, err
}

// checkTombstones refuses tombstones that no cut speaks of: nothing says of which tenant they are.
func (c *Change) checkTombstones(ctx context.Context) error {
	of, err := c.marks(ctx)
	if err != nil {
		return err
	}
	for p := range c.Partitions {
		buried, err := c.Table.Buried(ctx, p)
		if err != nil {
			return err
		}
		for _, b := range buried {
			if _, known := of[b.Mark]; !known {
				return fmt.Errorf("%w: a run of retention was killed and has left %d tombstones in partition %d: `ingester retention run` clears them", ErrPhase, b.Rows, p)
			}
		}
	}
	return nil
}

// marks are the new partitions of tombstones, by their marks: each is of a cut, which is of one tenant.
func (c *Change) marks(ctx context.Context) (map[uint64]int, error) {
	state, err := c.Control.Load(ctx)
	if err != nil {
		return nil, err
	}
	of := make(map[uint64]int, len(state.Marks()))
	for _, m := range state.Marks() {
		of[m.Mark] = events.Partition(m.Tenant, c.To)
	}
	return of, nil
}

// until looks again and again, but not longer than Wait.
func (c *Change) until(ctx context.Context, what string, look func(context.Context) (string, error)) error {
	for deadline := time.Now().Add(c.Wait); ; {
		missing, err := look(ctx)
		if err != nil || missing == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: after %s it is not so that %s: %s", ErrWaited, c.Wait, what, missing)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drained says what is not in the table yet.
func (c *Change) drained(ctx context.Context) (string, error) {
	for p := range c.Partitions {
		last, err := c.Ledger.Last(ctx, p)
		if err != nil {
			return "", err
		}
		waiting, err := c.Reader.Waiting(ctx, p, last.LastSeq+1)
		if err != nil {
			return "", err
		}
		pos, err := c.Positions.Get(ctx, p)
		if err != nil {
			return "", err
		}
		if waiting > 0 || pos.Batch < last.Batch {
			return fmt.Sprintf("%d messages of partition %d wait, and batch %d of %d is committed", waiting, p, pos.Batch, last.Batch), nil
		}
	}
	return "", nil
}

// alone says which ingesters run.
func (c *Change) alone(ctx context.Context) (string, error) {
	names, err := jetstream.Ingesters(ctx, c.JS)
	return strings.Join(names, ", "), err
}

// Abort opens the stream again as it was, of a change that died while it was closed. Later there is no way back.
func (c *Change) Abort(ctx context.Context) error {
	state, err := c.state(ctx)
	if err != nil {
		return err
	}
	if state == nil || state.Phase != repartition.Closed {
		return fmt.Errorf("%w: only a change that died while the stream was closed can be taken back", ErrPhase)
	}
	return c.set(ctx, c.Partitions, nil)
}
