package repartition

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"example.com/auditlog/pkg/service/repartition"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/repair"
	"example.com/auditlog/services/ingester/internal/verify"
)

// Finish does the steps 4 and 5. The old ledger goes to the file keep, a JSON object a line.
func (c *Change) Finish(ctx context.Context, keep string) (r repair.Report, err error) {
	err = c.exclusive(ctx, func(ctx context.Context) error {
		r, err = c.finish(ctx, keep)
		return err
	})
	return r, err
}

func (c *Change) finish(ctx context.Context, keep string) (repair.Report, error) {
	state, err := c.state(ctx)
	if err != nil {
		return repair.Report{}, err
	}
	if state == nil || state.Readable() != 0 && state.Phase != repartition.Copied {
		return repair.Report{}, fmt.Errorf("%w: the table beside is not whole: run `ingester repartition --to %d` first", ErrPhase, c.To)
	}
	if names, err := c.alone(ctx); err != nil || names != "" {
		return repair.Report{}, errors.Join(err, fmt.Errorf("%w: ingesters run: %s", ErrPhase, names))
	}
	if state.Phase != repartition.Resetting {
		if err := c.swap(ctx, state, keep); err != nil {
			return repair.Report{}, err
		}
	}
	report, err := c.reset(ctx, state)
	if err != nil {
		return report, err
	}
	// If we die before the mark is gone: the next one makes the ledger once more, from the same table.
	if err := c.Table.DropBeside(ctx); err != nil {
		return report, err
	}
	if err := c.after(Dropped); err != nil {
		return report, err
	}
	return report, c.set(ctx, c.To, nil)
}

// swap makes the new table the live one. The mark on the table tells whether that was done.
func (c *Change) swap(ctx context.Context, state *repartition.State, keep string) error {
	if err := c.saveLedger(ctx, keep); err != nil {
		return err
	}
	if err := c.after(Saved); err != nil {
		return err
	}
	state.Phase = repartition.Swapping
	if err := c.reach(ctx, c.To, state, Shut); err != nil {
		return err
	}
	c.Say("Waiting until query services that were not stopped notice that they must not read.")
	select {
	case <-time.After(c.ReadersWait):
	case <-ctx.Done():
		return ctx.Err()
	}
	beside, err := c.Table.Beside(ctx)
	if err != nil {
		return err
	}
	if beside.Mark == "" {
		if err := c.Table.SwapBeside(ctx, fmt.Sprintf("%d partitions", c.To)); err != nil {
			return err
		}
	}
	if err := c.after(Swapped); err != nil {
		return err
	}
	of, err := c.marks(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(c.Table.RepartitionHours(ctx, c.To), c.Table.RepartitionTombstones(ctx, of)); err != nil {
		return err
	}
	if err := c.after(Counted); err != nil {
		return err
	}
	if state.Ledger, err = jetstream.LedgerEnd(ctx, c.JS); err != nil {
		return err
	}
	state.Phase = repartition.Resetting
	return c.reach(ctx, c.To, state, Resetting)
}

// saveLedger writes the ledger, which proves what was in the stream, to a file. One that is there must be the same: a run that was killed has written it.
func (c *Change) saveLedger(ctx context.Context, path string) error {
	part := path + ".part"
	sum, err := c.writeLedger(ctx, part)
	if err != nil {
		return fmt.Errorf("save the ledger: %w", err)
	}
	there, err := sumOf(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Rename(part, path)
	case err == nil && bytes.Equal(there, sum):
		err = os.Remove(part)
	case err == nil:
		err = errors.Join(fmt.Errorf("%s is there and is something else: name another file", path), os.Remove(part))
	}
	if err != nil {
		return fmt.Errorf("save the ledger: %w", err)
	}
	return nil
}

// writeLedger writes the ledger to a file, in place of what an interrupted run has left there, and returns the hash of it.
func (c *Change) writeLedger(ctx context.Context, path string) (sum []byte, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // beside the file that was asked for
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	enc := json.NewEncoder(io.MultiWriter(f, hash))
	for p := range c.Partitions {
		if err := c.Ledger.Walk(ctx, p, func(r ledger.Record) error { return enc.Encode(r.Entry) }); err != nil {
			return nil, err
		}
	}
	return hash.Sum(nil), f.Sync()
}

func sumOf(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the file that was asked for
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return nil, err
	}
	return hash.Sum(nil), nil
}

// reset makes ledger and positions anew, from the table, and proves them.
func (c *Change) reset(ctx context.Context, state *repartition.State) (repair.Report, error) {
	shape := c.Shape
	shape.Partitions = c.To
	if err := shape.Forget(ctx, c.JS, state.Through, state.Ledger+1, c.Log); err != nil {
		return repair.Report{}, err
	}
	if err := c.after(Forgotten); err != nil {
		return repair.Report{}, err
	}
	report, err := repair.Run(ctx, c.to(), repair.Options{Writer: c.Writer}, c.Log)
	if err != nil {
		return report, err
	}
	found, err := verify.Run(ctx, c.to(), verify.Options{})
	if err == nil && !found.OK() {
		err = fmt.Errorf("%w; the table as it was is still there, as %s", ErrDisagree, clickhouse.BuildTable)
	}
	if err == nil {
		err = c.after(Proven)
	}
	return report, err
}
