// Package backup copies the whole log while it runs, and restores it into empty servers.
//
// A restored log must go on as after a crash: every row in the ledger, every entry of the ledger in the stream, and every row there that the ledger
// says is committed. So the order is: positions and ledger first, then the table, which by then has all that they call committed, then the stream,
// which has all that the ledger names, and what else there is. What the table has beyond the copied ledger is deleted after the restore: the stream
// has it, and it is ingested again.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/buildinfo"
	"example.com/auditlog/pkg/service/shard"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// System is what is backed up or restored.
type System struct {
	JetStream natsjs.JetStream
	// Shape is what the settings say of the streams.
	Shape jetstream.Shape
	Table *clickhouse.Store
	// Shard is which of the partitions Table has.
	Shard shard.Shard
	// TableOnly leaves the streams alone: for every shard but the first.
	TableOnly bool
	// Progress is told what was done, a line at a time.
	Progress func(line string)
}

// Write backs the system up into dir, which must not be there. The services may run. When it fails, nothing is left of it.
func Write(ctx context.Context, s System, dir string) (m *Manifest, err error) {
	if err := jetstream.CheckPartitions(ctx, s.JetStream, s.Shape); err != nil {
		return nil, err
	}
	f, err := create(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.abandon())
		}
	}()
	m = &Manifest{Format: format, Program: buildinfo.Get().String(), BeganAt: time.Now().UTC(),
		Partitions: s.Shape.Partitions, Shard: s.Shard.String(), Streams: []Stream{}}
	if err := s.fill(ctx, f, m); err != nil {
		return nil, err
	}
	m.DoneAt = time.Now().UTC()
	if err := f.finish(m); err != nil {
		return nil, fmt.Errorf("finish the backup: %w", err)
	}
	return m, nil
}

// fill copies everything in the order that the package's comment gives the reasons for.
func (s System) fill(ctx context.Context, f *folder, m *Manifest) error {
	decided, err := s.decided(ctx)
	if err != nil {
		return err
	}
	if s.TableOnly {
		return errors.Join(s.table(ctx, f, m), s.undisturbed(ctx, decided))
	}
	names, err := jetstream.Names(ctx, s.JetStream)
	if err != nil {
		return err
	}
	first := []string{jetstream.PositionsStream, events.StreamLedger}
	for _, name := range append(slices.Clone(first), events.StreamAudit) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no stream %s: is this the NATS of an audit log that has run (AUDIT_NATS_URL)?", name)
		}
	}
	needed, err := s.needed(ctx)
	if err != nil {
		return err
	}
	if err := s.streams(ctx, f, m, first); err != nil {
		return err
	}
	if err := s.table(ctx, f, m); err != nil {
		return err
	}
	// What was decided is written down before it is done, so the streams that say so come after the table.
	rest := slices.DeleteFunc(names, func(name string) bool { return slices.Contains(first, name) })
	if err := s.streams(ctx, f, m, rest); err != nil {
		return err
	}
	// Asked when the copy is there: what is trimmed while it is made may be missing in it.
	info, err := s.JetStream.Stream(ctx, events.StreamAudit)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	if first := info.CachedInfo().State.FirstSeq; first > needed {
		return fmt.Errorf("stream %s was trimmed to sequence %d while it was backed up, and the copy of the ledger needs it from %d on: "+
			"make AUDIT_RETENTION longer than a backup takes", events.StreamAudit, first, needed)
	}
	return s.undisturbed(ctx, decided)
}

// decided is the sequence of the newest decision in the control log, 0 when there is none.
func (s System) decided(ctx context.Context) (uint64, error) {
	stream, err := s.JetStream.Stream(ctx, events.StreamControl)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open stream %s: %w", events.StreamControl, err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// undisturbed returns an error when a decision was written down since: the copy of the log would tell of what the copy of the table knows nothing of.
func (s System) undisturbed(ctx context.Context, since uint64) error {
	now, err := s.decided(ctx)
	if err == nil && now != since {
		err = fmt.Errorf("decisions %d to %d came into stream %s while it was backed up: begin again when what removes events is done", since+1, now, events.StreamControl)
	}
	return err
}

// needed is from where on the copy of the stream must go, given a copy of the ledger that is made after.
func (s System) needed(ctx context.Context) (uint64, error) {
	l, err := ledger.Open(ctx, s.JetStream)
	if err != nil {
		return 0, err
	}
	return jetstream.FirstOpen(ctx, s.JetStream, s.Shape.Partitions, func(p int) (uint64, error) {
		last, err := l.Last(ctx, p)
		return last.LastSeq, err
	})
}

func (s System) streams(ctx context.Context, f *folder, m *Manifest, names []string) error {
	for _, name := range names {
		stream, err := s.stream(ctx, f, name)
		if err != nil {
			return err
		}
		m.Streams = append(m.Streams, stream)
		s.Progress(fmt.Sprintf("stream %s: %d messages, %d bytes", name, stream.Messages, stream.Data.Bytes))
	}
	return nil
}

// bucketTries bounds how often a bucket is copied anew because it was written to meanwhile.
const bucketTries = 20

// stream copies one stream. Of a bucket only the newest value of each key is kept: one that is written while it is copied has its old value no more, and
// not yet the new one. So it is copied until that did not happen; but for positions, which are written all the time, and may be missing.
func (s System) stream(ctx context.Context, f *folder, name string) (Stream, error) {
	for range bucketTries {
		out, err := s.copy(ctx, f, name)
		if err != nil || !jetstream.IsBucket(name) || name == jetstream.PositionsStream {
			return out, err
		}
		now, err := s.JetStream.Stream(ctx, name)
		if err != nil {
			return out, fmt.Errorf("open stream %s: %w", name, err)
		}
		if now.CachedInfo().State.LastSeq == out.LastSeq {
			return out, nil
		}
		if err := f.remove(out.Data, out.Meta); err != nil {
			return out, err
		}
	}
	return Stream{}, fmt.Errorf("copy stream %s: it was written to during each of %d attempts", name, bucketTries)
}

func (s System) copy(ctx context.Context, f *folder, name string) (out Stream, err error) {
	out.Name = name
	path := streamFolder + "/" + name + "/"
	var snap jetstream.Snapshot
	out.Data, err = f.write(path+dataFile, func(w io.Writer) error {
		snap, err = jetstream.Save(ctx, s.JetStream.Conn(), name, w)
		return err
	})
	if err != nil {
		return out, err
	}
	state, err := snap.Summary()
	if err != nil {
		return out, err
	}
	out.Messages, out.FirstSeq, out.LastSeq = state.Messages, state.FirstSeq, state.LastSeq
	out.Meta, err = f.write(path+metaFile, func(w io.Writer) error { return json.NewEncoder(w).Encode(snap) })
	return out, err
}

func (s System) table(ctx context.Context, f *folder, m *Manifest) (err error) {
	m.Table.File, err = f.write(tableFile, func(w io.Writer) error {
		archive, err := s.Table.Backup(ctx, archiveName(), w)
		m.Table.Server, m.Table.Schema = archive.Server, archive.Schema
		return err
	})
	if err == nil {
		s.Progress(fmt.Sprintf("ClickHouse: %d bytes", m.Table.File.Bytes))
	}
	return err
}

// archiveName is a new name for a file on ClickHouse's server.
func archiveName() string {
	return "audit-" + strings.ToLower(time.Now().UTC().Format("20060102T150405Z")) + "-" + uuid.NewString()[:8]
}
