package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// run runs one of the ingester's commands and returns its exit status and what it prints.
func (r *rig) run(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code := Main(t.Context(), args, r.getenv, nil, &out, &out)
	return code, out.String()
}

// refused starts an ingester and returns the error it ends with.
func (r *rig) refused(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	svc, err := New(ctx, r.cfg, Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err == nil {
		err = svc.Run(ctx)
	}
	if ctx.Err() != nil {
		t.Fatal("the ingester ran on")
	}
	return err
}

// Ensure an ingester that finds its ledger gone, emptied or older than the table neither starts from zero nor goes on, but says what to do; that the
// table is not rebuilt from it; and that the ledger can be repaired, after which everything is there once and proven again.
func TestLedgerLost(t *testing.T) {
	gone := func(t *testing.T, r *rig) {
		if err := r.js.DeleteStream(t.Context(), events.StreamLedger); err != nil {
			t.Fatal(err)
		}
	}
	f := func(name string, rows int, harm func(*testing.T, *rig)) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, stop := r.serve(t, nil)
			r.publish(t, 100, 30)
			r.refuse(t, 3)
			r.wantRows(t, 100, 20*time.Second)
			r.wantDeadLetters(t, 3)
			stop()
			harm(t, r)
			r.publish(t, 20, 30) // waits
			err := r.refused(t)
			if !errors.Is(err, ledger.ErrTruncated) || !strings.Contains(err.Error(), "ingester ledger repair") || !strings.Contains(err.Error(), "backup") {
				t.Fatalf("the ingester ended with: %v", err)
			}
			if code, out := r.run(t, "verify"); code != exitFault || !strings.Contains(out, "entries of the ledger are gone") && !strings.Contains(out, "a row after the last batch") {
				t.Errorf("verify: %d %s", code, out)
			}
			if code, out := r.run(t, "rebuild"); code != exitFault || !strings.Contains(out, "ingester ledger repair") {
				t.Errorf("rebuild: %d %s", code, out)
			}
			r.wantRows(t, rows, time.Second)
			if code, out := r.run(t, "ledger", "repair"); code != exitOK || strings.HasPrefix(out, "0 ") {
				t.Fatalf("repair: %d %s", code, out)
			}
			if code, out := r.run(t, "ledger", "repair"); code != exitOK || !strings.HasSuffix(out, "0 partitions lacked entries: wrote 0 for 0 messages\n") {
				t.Errorf("a second repair: %d %s", code, out)
			}
			_, stop = r.serve(t, nil)
			r.wantRows(t, rows+20, 20*time.Second)
			stop()
			if code, out := r.run(t, "verify", "--deep"); code != exitOK {
				t.Errorf("verify: %d %s", code, out)
			}
			r.wantDeadLetters(t, 3)
		})
	}
	f("stream deleted", 100, gone)
	f("stream deleted and made anew", 100, func(t *testing.T, r *rig) {
		gone(t, r)
		if err := jetstream.Setup(t.Context(), r.js, r.cfg.shape(), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	})
	f("with the positions", 100, func(t *testing.T, r *rig) {
		gone(t, r)
		if err := r.js.DeleteKeyValue(t.Context(), ledger.BucketPositions); err != nil {
			t.Fatal(err)
		}
	})
	f("after the messages were trimmed", 100, func(t *testing.T, r *rig) {
		gone(t, r)
		trimAll(t, r)
	})
	f("older than the table", 150, func(t *testing.T, r *rig) { r.rollBack(t, events.StreamLedger) })
	f("older than the table, with the positions", 150, func(t *testing.T, r *rig) {
		r.rollBack(t, events.StreamLedger, "KV_"+ledger.BucketPositions)
	})
}

// Ensure a repair of the ledger that is killed at any of its steps can be run again, that no ingester goes on from what is half repaired, and that in
// the end everything is there once and proven.
func TestRepairKilled(t *testing.T) {
	const tenants = 4
	r := newRig(t)
	partitions := map[int]bool{}
	for i := range tenants {
		partitions[events.Partition(tenantOf(i), r.cfg.Partitions)] = true
	}
	_, stop := r.serve(t, nil)
	for n := range 2 { // more batches than the repair will write, so that the position is ahead of it until it is written
		r.publish(t, 30, tenants)
		r.wantRows(t, 30*(n+1), 20*time.Second)
	}
	stop()
	trimAll(t, r) // what is left makes one entry, what was trimmed another
	_, stop = r.serve(t, nil)
	r.publish(t, 60, tenants)
	r.wantRows(t, 120, 20*time.Second)
	stop()
	if err := r.js.DeleteStream(t.Context(), events.StreamLedger); err != nil {
		t.Fatal(err)
	}
	if err := jetstream.Setup(t.Context(), r.js, r.cfg.shape(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	killed := 0
	for {
		repair := r.spawn(t, envRepair+"=1")
		err := repair.Wait()
		if err == nil {
			break
		}
		if ws := repair.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("the repair was not killed: %v", err)
		}
		if killed++; killed == 1 || killed == 2 { // between the entries of a partition, and before its position is written
			if err := r.refused(t); !errors.Is(err, ledger.ErrTruncated) {
				t.Fatalf("half repaired, an ingester ended with: %v", err)
			}
		}
	}
	if want := 3 * len(partitions); killed != want {
		t.Errorf("the repair was killed %d times, want %d: at each of two entries and the position of %d partitions", killed, want, len(partitions))
	}
	r.wantRows(t, 120, time.Second)
	r.publish(t, 30, tenants)
	_, stop = r.serve(t, nil)
	r.wantRows(t, 150, 20*time.Second)
	stop()
	if code, out := r.run(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d %s", code, out)
	}
}

// Ensure an ingester whose ledger is deleted while it runs writes nothing more, ends, and says what to do, which then helps.
func TestLedgerDeletedUnderIngester(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	svc, err := New(ctx, r.cfg, Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 20*time.Second)
	if err := r.js.DeleteStream(t.Context(), events.StreamLedger); err != nil {
		t.Fatal(err)
	}
	r.publish(t, 20, 30)
	if err := <-ended; !errors.Is(err, ledger.ErrTruncated) || !strings.Contains(err.Error(), "ingester ledger repair") {
		t.Fatalf("the ingester ended with: %v", err)
	}
	r.wantRows(t, 100, time.Second)
	if err := r.refused(t); !errors.Is(err, ledger.ErrTruncated) {
		t.Fatalf("the next ingester ended with: %v", err)
	}
	r.wantRows(t, 100, time.Second)
	if code, out := r.run(t, "ledger", "repair"); code != exitOK {
		t.Fatalf("repair: %d %s", code, out)
	}
	_, stop := r.serve(t, nil)
	r.wantRows(t, 120, 20*time.Second)
	stop()
	if code, out := r.run(t, "verify", "--deep"); code != exitOK {
		t.Errorf("verify: %d %s", code, out)
	}
}

// trimAll removes what is in the table from the stream.
func trimAll(t *testing.T, r *rig) {
	t.Helper()
	source := jetstream.NewSource(r.js, r.js.Conn(), r.cfg.shape(), slog.New(slog.DiscardHandler))
	if _, err := source.Trim(t.Context(), mustPositions(t, r), time.Nanosecond); err != nil {
		t.Fatal(err)
	}
}

// rollBack puts 50 more rows into the table and then brings streams back to the state they were in before.
func (r *rig) rollBack(t *testing.T, streams ...string) {
	t.Helper()
	r.rollBackOver(t, func() {
		_, stop := r.serve(t, nil)
		r.publish(t, 50, 30)
		r.wantRows(t, 150, 20*time.Second)
		stop()
	}, streams...)
}

// rollBackOver does something and then brings streams back to the state they were in before.
func (r *rig) rollBackOver(t *testing.T, do func(), streams ...string) {
	t.Helper()
	saved := t.TempDir()
	folder := func(stream string) string {
		return filepath.Join(r.Dir(), "nats", "jetstream", "$G", "streams", stream)
	}
	whileStopped := func(do func(stream string) error) {
		err := r.StopNATS()
		for _, stream := range streams {
			err = errors.Join(err, do(stream))
		}
		if err = errors.Join(err, r.StartNATS(t.Context())); err != nil {
			t.Fatal(err)
		}
		r.reconnect(t)
	}
	whileStopped(func(stream string) error { return os.CopyFS(filepath.Join(saved, stream), os.DirFS(folder(stream))) })
	do()
	whileStopped(func(stream string) error {
		return errors.Join(os.RemoveAll(folder(stream)), os.CopyFS(folder(stream), os.DirFS(filepath.Join(saved, stream))))
	})
}
