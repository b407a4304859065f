package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
)

// ErrNotEmpty means that there is something where a backup should be restored to.
var ErrNotEmpty = errors.New("not empty")

// Report says what was restored.
type Report struct {
	Manifest *Manifest
	// Rows is how many rows the table has now. Again is how many more it had, that were not in the ledger yet: an ingester inserts them from the stream.
	Rows, Again uint64
}

// Restore brings the backup in dir into empty servers. No service may run. After a failure the servers have to be emptied before the next attempt; an
// ingester that is started all the same does not go on.
func Restore(ctx context.Context, s System, dir string) (r Report, err error) {
	if r.Manifest, err = Read(dir); err != nil {
		return r, err
	}
	if err := s.fits(r.Manifest, dir); err != nil {
		return r, err
	}
	if err := s.empty(ctx); err != nil {
		return r, err
	}
	// The ledger comes last: an ingester that finds rows and no ledger does not start.
	if err := s.restoreTable(ctx, dir); err != nil {
		return r, err
	}
	last := func(st Stream) int {
		if st.Name == events.StreamLedger {
			return 1
		}
		return 0
	}
	for _, stream := range slices.SortedStableFunc(slices.Values(r.Manifest.Streams), func(a, b Stream) int { return last(a) - last(b) }) {
		if err := s.restoreStream(ctx, dir, stream); err != nil {
			return r, err
		}
	}
	return r, s.settle(ctx, &r)
}

// fits says why a backup cannot be restored with these settings and this program.
func (s System) fits(m *Manifest, dir string) error {
	switch {
	case m.Partitions != s.Shape.Partitions:
		return fmt.Errorf("the backup in %s has %d partitions, AUDIT_PARTITIONS is %d", dir, m.Partitions, s.Shape.Partitions)
	case m.Shard != s.Shard.String():
		return fmt.Errorf("the backup in %s is of shard %s, AUDIT_SHARD is %s", dir, m.Shard, s.Shard)
	case m.Table.Schema > clickhouse.Schema():
		return fmt.Errorf("the tables of the backup in %s are of version %d, this program knows %d: run the program that wrote it, %s, or a newer one",
			dir, m.Table.Schema, clickhouse.Schema(), m.Program)
	case s.TableOnly != (len(m.Streams) == 0):
		return fmt.Errorf("the backup in %s has %d streams: --table-only is for those without, which are restored after the one that has them", dir, len(m.Streams))
	}
	return nil
}

// empty returns an ErrNotEmpty when there is anything that would be mixed with what is restored.
func (s System) empty(ctx context.Context) error {
	tables, err := s.Table.Tables(ctx)
	if err != nil {
		return err
	}
	if len(tables) > 0 {
		return fmt.Errorf("%w: ClickHouse has the tables %s: restore into a new server, or drop the database and make it anew", ErrNotEmpty, strings.Join(tables, ", "))
	}
	if s.TableOnly {
		return nil
	}
	names, err := jetstream.Names(ctx, s.JetStream)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: NATS has the streams %s: stop all services and restore into a new server", ErrNotEmpty, strings.Join(names, ", "))
	}
	return nil
}

func (s System) restoreTable(ctx context.Context, dir string) error {
	file, err := os.Open(filepath.Join(dir, filepath.FromSlash(tableFile)))
	if err != nil {
		return fmt.Errorf("open the backup: %w", err)
	}
	defer func() { _ = file.Close() }()
	if err := s.Table.Restore(ctx, archiveName(), file); err != nil {
		return err
	}
	s.Progress("ClickHouse: restored")
	return nil
}

func (s System) restoreStream(ctx context.Context, dir string, want Stream) error {
	meta, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(want.Meta.Path)))
	if err != nil {
		return fmt.Errorf("open the backup: %w", err)
	}
	var snap jetstream.Snapshot
	if err := json.Unmarshal(meta, &snap); err != nil {
		return fmt.Errorf("read %s of the backup: %w", want.Meta.Path, err)
	}
	data, err := os.Open(filepath.Join(dir, filepath.FromSlash(want.Data.Path)))
	if err != nil {
		return fmt.Errorf("open the backup: %w", err)
	}
	defer func() { _ = data.Close() }()
	have, err := jetstream.Restore(ctx, s.JetStream.Conn(), snap, s.Shape.Replicas, data)
	if err != nil {
		return err
	}
	// Of the messages some may have been trimmed, or written over, while they were copied.
	if have.LastSeq != want.LastSeq {
		return fmt.Errorf("restore stream %s: it ends at sequence %d, the backup says %d", want.Name, have.LastSeq, want.LastSeq)
	}
	s.Progress(fmt.Sprintf("stream %s: %d messages", want.Name, have.Messages))
	return nil
}

// settle takes the rows out of the table that the ledger does not know, and looks whether the parts go together now.
func (s System) settle(ctx context.Context, r *Report) error {
	system := verify.System{Reader: replay.New(s.JetStream), Table: s.Table, Partitions: s.Shape.Partitions, Shard: s.Shard}
	var err error
	if system.Ledger, err = ledger.Open(ctx, s.JetStream); err != nil {
		return err
	}
	if system.Positions, err = ledger.OpenPositions(ctx, s.JetStream); err != nil {
		return err
	}
	// Rows of a stream that was lost before are older than this one, and no ledger knows them.
	origin, err := system.Reader.Origin(ctx)
	if err != nil {
		return err
	}
	own := s.Shard.Partitions(s.Shape.Partitions)
	through := make(map[int]uint64, len(own))
	for _, p := range own {
		last, err := system.Ledger.Last(ctx, p)
		if err != nil {
			return err
		}
		through[p] = max(last.LastSeq, origin-1)
	}
	if r.Again, err = s.Table.DeleteAfter(ctx, through); err != nil {
		return err
	}
	for _, p := range own {
		if err := system.CheckLedger(ctx, p); err != nil {
			return fmt.Errorf("the parts of the backup do not go together: %w", err)
		}
	}
	r.Rows, err = s.Table.Count(ctx)
	return err
}
