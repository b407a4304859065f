package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/jetstream"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// Ensure an ingester outlives ClickHouse: stopped, killed, frozen. Everything is there once when it is back.
func TestClickHouseAway(t *testing.T) {
	r := newRig(t)
	r.serve(t, nil)
	want := 0
	f := func(name string, away, back func() error) {
		t.Run(name, func(t *testing.T) {
			r.publish(t, 100, 30)
			time.Sleep(20 * time.Millisecond) // some batches are on their way
			if err := away(); err != nil {
				t.Fatal(err)
			}
			r.publish(t, 100, 30)
			want += 200
			time.Sleep(500 * time.Millisecond)
			if err := back(); err != nil {
				t.Fatal(err)
			}
			r.wantRows(t, want, 30*time.Second)
		})
	}
	start := func() error { return r.StartClickHouse(t.Context()) }
	f("stopped", r.StopClickHouse, start)
	f("killed", r.KillClickHouse, start)
	f("frozen", r.PauseClickHouse, r.ResumeClickHouse)
}

// Ensure an ingester outlives NATS, and that one that starts before ClickHouse waits for it.
func TestNATSAway(t *testing.T) {
	r := newRig(t)
	if err := r.StopClickHouse(); err != nil {
		t.Fatal(err)
	}
	r.serve(t, nil)
	r.publish(t, 100, 30)
	time.Sleep(300 * time.Millisecond)
	if err := r.StartClickHouse(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantRows(t, 100, 20*time.Second)
	for i := range 2 {
		if err := r.StopNATS(); err != nil {
			t.Fatal(err)
		}
		// Once for longer than a heartbeat counts, once for less.
		time.Sleep([]time.Duration{2 * time.Second, 200 * time.Millisecond}[i])
		if err := r.StartNATS(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.reconnect(t)
		r.publish(t, 100, 30)
		r.wantRows(t, 200+100*i, 30*time.Second)
	}
}

// Ensure a reader whose consumers the server has forgotten is noticed and begins anew where it was, with headers and without.
func TestConsumersForgotten(t *testing.T) {
	for _, traced := range []bool{false, true} {
		t.Run(fmt.Sprintf("traced=%t", traced), func(t *testing.T) {
			r := newRig(t)
			r.serve(t, func(c *Config) {
				if traced {
					c.Telemetry.Endpoint = "http://127.0.0.1:1" // nobody listens there
				}
			})
			for round := range 3 {
				r.publish(t, 100, 30)
				r.wantRows(t, 100*(round+1), 30*time.Second)
				r.forgetConsumers(t)
			}
			r.publish(t, 100, 30)
			r.wantRows(t, 400, 30*time.Second)
		})
	}
}

// forgetConsumers removes every consumer of the stream.
func (r *rig) forgetConsumers(t *testing.T) {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	forgotten := 0
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err == nil {
			forgotten++
		}
	}
	if forgotten == 0 {
		t.Error("there was no consumer")
	}
}

// Ensure a message larger than what is left of a request ends that request alone, and the next request brings it: the reader does not begin anew.
func TestLargeMessages(t *testing.T) {
	r := newRig(t)
	svc, _ := r.serve(t, nil)
	stream, err := r.js.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("x"), int(stream.CachedInfo().Config.MaxMsgSize))
	n := 8<<20/len(large) + 1 // more than the open requests hold together
	for range n {
		if _, err := r.js.Publish(t.Context(), events.Subject(tenantOf(1)), large); err != nil {
			t.Fatal(err)
		}
	}
	r.publish(t, 10, 3)
	r.wantRows(t, 10, 30*time.Second)
	r.wantDeadLetters(t, n)
	if anew, _ := r.series(t, svc, "audit_ingester_retries_total", "read"); anew != 0 {
		t.Errorf("the reader began anew %v times", anew)
	}
}

// reconnect waits until the producer's connection is back.
func (r *rig) reconnect(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if r.nc.Status() == nats.CONNECTED {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := r.js.Stream(ctx, events.StreamAudit)
			cancel()
			if err == nil {
				return
			}
		}
	}
	t.Fatal("the producer does not reach NATS any more")
}

// Ensure a stream that is deleted under a running ingester is made anew, and that new events neither take the place of old ones nor are skipped.
func TestStreamDeleted(t *testing.T) {
	r := newRig(t)
	r.serve(t, nil)
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 10*time.Second)
	if err := r.js.DeleteStream(t.Context(), events.StreamAudit); err != nil {
		t.Fatal(err)
	}
	r.reconnectStream(t)
	r.publish(t, 100, 30)
	r.wantRows(t, 200, 20*time.Second)
}

func (r *rig) reconnectStream(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := r.js.Stream(t.Context(), events.StreamAudit); err == nil {
			return
		}
	}
	t.Fatal("the stream was not made anew")
}

// Ensure a stream of another shape stops the start with a text that says what differs.
func TestWrongStream(t *testing.T) {
	r := newRig(t)
	cfg := r.cfg
	cfg.Partitions = 8
	_, err := New(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err == nil || pipeline.Classify(err, pipeline.Transient) != pipeline.Fatal {
		t.Fatalf("started with %v", err)
	}
	for _, part := range []string{"AUDIT_PARTITIONS", "partition(16,1)", "partition(8,1)", events.StreamAudit} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	// A limit may change.
	cfg = r.cfg
	cfg.StreamMaxBytes = 64 << 20
	if err := jetstream.Setup(t.Context(), r.js, cfg.shape(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	stream, err := r.js.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.MaxBytes; got != cfg.StreamMaxBytes {
		t.Errorf("max bytes are %d", got)
	}
}

// Ensure a stream that ends before what the ledger knows, as one restored from a backup, is not read as if it were the old one.
func TestStreamBehindLedger(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 10*time.Second)
	stop()
	if err := r.js.DeleteStream(t.Context(), events.StreamAudit); err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.CreateStream(t.Context(), natsjs.StreamConfig{
		Name: events.StreamAudit, Subjects: []string{events.SubjectEvents}, Discard: natsjs.DiscardNew, DenyDelete: true, AllowDirect: true, AllowAtomicPublish: true,
		SubjectTransform: &natsjs.SubjectTransformConfig{Source: events.SubjectEvents, Destination: "audit.log.{{partition(16,1)}}.{{wildcard(1)}}"},
	}); err != nil {
		t.Fatal(err)
	}
	_, err := New(t.Context(), r.cfg, Deps{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("started with %v", err)
	}
}

// Ensure trimming takes what is committed and old, and nothing else.
func TestTrim(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	r.publish(t, 100, 30)
	r.wantRows(t, 100, 10*time.Second)
	stop() // positions are written
	time.Sleep(50 * time.Millisecond)
	r.publish(t, 10, 1) // not in the table; one partition
	state := func() natsjs.StreamState {
		s, err := r.js.Stream(t.Context(), events.StreamAudit)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State
	}
	source := jetstream.NewSource(r.js, r.js.Conn(), r.cfg.shape(), slog.New(slog.DiscardHandler))
	positions := mustPositions(t, r)
	if _, err := source.Trim(t.Context(), positions, time.Hour); err != nil || state().Msgs != 110 {
		t.Fatalf("young messages: %d left, %v", state().Msgs, err)
	}
	for _, years := range []int{-10, 10} {
		source.Now = func() time.Time { return time.Now().AddDate(years, 0, 0) }
		if _, err := source.Trim(t.Context(), positions, time.Hour); err != nil || state().Msgs != 110 {
			t.Fatalf("young messages, with a clock that has jumped by %d years: %d left, %v", years, state().Msgs, err)
		}
	}
	source.Now = time.Now
	first, err := source.Trim(t.Context(), positions, time.Nanosecond)
	if err != nil || state().Msgs != 10 || first != 101 {
		t.Fatalf("%d left from %d, %v; want the 10 that are not in the table", state().Msgs, first, err)
	}
	r.serve(t, nil)
	r.wantRows(t, 110, 10*time.Second)
}
