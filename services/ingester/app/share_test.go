package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// maxTakeover is how long the partitions of a dead ingester may rest, with heartbeats as in production.
const maxTakeover = 10 * time.Second

// Ensure ingesters share the partitions, that one takes over from another that is killed, in time, and at once from one that leaves in order.
func TestShareAndTakeOver(t *testing.T) {
	r := newRig(t)
	r.cfg.heartbeat = 0 // as in production; the bucket's TTL follows
	survivor, _ := r.serve(t, nil)
	waitDriven(t, survivor, 16, 10*time.Second)
	second, stopSecond := r.serve(t, nil)
	waitDriven(t, survivor, 8, 10*time.Second)
	waitDriven(t, second, 8, 10*time.Second)
	r.publish(t, 200, 30)
	r.wantRows(t, 200, 10*time.Second)

	start := time.Now()
	stopSecond()
	waitDriven(t, survivor, 16, 2*time.Second)
	t.Logf("handed over in %s", time.Since(start))

	victim := r.spawn(t, envHeartbeat+"=1s")
	waitDriven(t, survivor, 8, 10*time.Second)
	r.publish(t, 200, 30)
	r.wantRows(t, 400, 10*time.Second)
	start = time.Now()
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	r.publish(t, 200, 30)
	r.wantRows(t, 600, maxTakeover)
	waitDriven(t, survivor, 16, maxTakeover-time.Since(start))
	t.Logf("took over in %s", time.Since(start))
}

func waitDriven(t *testing.T, s *Service, want int, within time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		got := len(s.pipe.Driven())
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("drives %d partitions, want %d", got, want)
		}
	}
}

// Ensure the ledger of the real server refuses a stale writer, settles an append that is sent twice, and walks what it has.
func TestLedgerFences(t *testing.T) {
	r := newRig(t)
	l, err := ledger.Open(t.Context(), r.js)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(batch, follows uint64, writer string) ledger.Entry {
		return ledger.Entry{Partition: 3, Batch: batch, FirstSeq: batch * 10, LastSeq: batch*10 + 5, Messages: 1, Rows: 1,
			CommittedThrough: batch - 1, Follows: follows, Writer: writer}
	}
	first, err := l.Append(t.Context(), entry(1, 0, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := l.Append(t.Context(), entry(1, 0, "a")); err != nil || again.Seq != first.Seq {
		t.Errorf("the same append again: %d, %v; want %d", again.Seq, err, first.Seq)
	}
	if _, err := l.Append(t.Context(), entry(1, 0, "b")); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("a second first entry: %v", err)
	}
	second, err := l.Append(t.Context(), entry(2, first.Seq, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entry(2, first.Seq, "a")); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("a stale writer: %v", err)
	}
	if open, err := l.Uncommitted(t.Context(), 3); err != nil || len(open) != 1 || open[0].Seq != second.Seq {
		t.Errorf("uncommitted: %+v, %v", open, err)
	}
	var walked []uint64
	if err := l.Walk(t.Context(), 3, func(r ledger.Record) error { walked = append(walked, r.Batch); return nil }); err != nil || fmt.Sprint(walked) != "[1 2]" {
		t.Errorf("walked %v, %v", walked, err)
	}
	if last, err := l.Last(t.Context(), 4); err != nil || last.Seq != 0 {
		t.Errorf("a partition without entries: %+v, %v", last, err)
	}
}

// Ensure a running ingester whose partition somebody else appends to lets go, and that nothing is doubled.
func TestFencedWriterLetsGo(t *testing.T) {
	r := newRig(t)
	svc, _ := r.serve(t, nil)
	waitDriven(t, svc, 16, 10*time.Second)
	// A second ingester that does not know of the first: it believes to be alone and drives everything, too.
	other, err := newService(t.Context(), r.cfg, Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	rogue := pipeline.New(pipeline.Config{Instance: "rogue", TokenPrefix: "audit:"}, pipeline.Deps{
		Source: other.source, Ledger: mustLedger(t, r), Positions: other.positions, DeadLetters: jetstream.NewDeadLetters(r.js),
		Sink: sink{other.store}, Members: everything{}, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := rogue.Run(ctx); err != nil {
			t.Errorf("rogue: %v", err)
		}
	})
	for range 5 {
		r.publish(t, 200, 30)
	}
	r.wantRows(t, 1000, 30*time.Second)
	cancel()
	wg.Wait()
	r.publish(t, 200, 30)
	r.wantRows(t, 1200, 30*time.Second)
}

func mustLedger(t *testing.T, r *rig) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), r.js)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// everything believes that all partitions are its own.
type everything struct{}

func (everything) Wanted() (all []int) {
	for p := range 16 {
		all = append(all, p)
	}
	return all
}
func (everything) Changed() <-chan struct{} { return nil }
func (everything) Hold(int)                 {}
func (everything) Release(int)              {}
func (everything) Valid() bool              { return true }

// Ensure that SIGTERM to a real process ends it in order, with what it had gathered in the table.
func TestTerminated(t *testing.T) {
	r := newRig(t)
	child := r.spawn(t)
	r.publish(t, 50, 30)
	r.wantRows(t, 50, 10*time.Second)
	r.publish(t, 300, 30)
	if err := child.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Fatalf("ended with %v", err)
	}
	keys, err := r.js.KeyValue(t.Context(), jetstream.BucketIngesters)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := keys.Keys(t.Context()); err == nil {
		t.Errorf("left heartbeats behind: %s", strings.Join(names, ", "))
	}
	r.serve(t, nil)
	r.wantRows(t, 350, 10*time.Second)
}

func mustPositions(t *testing.T, r *rig) *ledger.Positions {
	t.Helper()
	p, err := ledger.OpenPositions(t.Context(), r.js)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
