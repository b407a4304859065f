package app

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/jetstream"
)

// decide takes a decision as an operator would, on a system that an ingester has been at.
func (r *rig) decide(t *testing.T, d control.Decision) {
	t.Helper()
	store, err := clickhouse.Open(t.Context(), r.cfg.ClickHouseURL, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	l, err := jetstream.SetupControl(t.Context(), r.js, r.cfg.shape(), store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	state, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), state, d); err != nil {
		t.Fatal(err)
	}
}

// Ensure an ingester that finds decisions gone neither makes a log in which nothing was decided nor ingests, but says what to do, and that it starts again
// once they are repaired.
func TestControlLost(t *testing.T) {
	held := tenantOf(1)
	hold := control.Decision{Kind: control.HoldSet, Tenant: &held, By: "ann"}
	f := func(name string, harm func(*testing.T, *rig)) {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, stop := r.serve(t, nil)
			r.publish(t, 100, 30)
			r.wantRows(t, 100, 20*time.Second)
			stop()
			r.decide(t, hold)
			harm(t, r)
			r.publish(t, 20, 30) // waits
			err := r.refused(t)
			if !errors.Is(err, control.ErrLost) || !strings.Contains(err.Error(), "ingester control repair") || !strings.Contains(err.Error(), "backup") {
				t.Fatalf("the ingester ended with: %v", err)
			}
			r.wantRows(t, 100, time.Second)
			if code, out := r.run(t, "control", "repair"); code != exitOK || strings.HasPrefix(out, "0 ") {
				t.Fatalf("repair: %d %s", code, out)
			}
			if code, out := r.run(t, "control", "repair"); code != exitOK || out != "0 decisions were lost and are written anew\n" {
				t.Errorf("a second repair: %d %s", code, out)
			}
			_, stop = r.serve(t, nil)
			r.wantRows(t, 120, 20*time.Second)
			stop()
		})
	}
	f("stream deleted", func(t *testing.T, r *rig) {
		if err := r.js.DeleteStream(t.Context(), events.StreamControl); err != nil {
			t.Fatal(err)
		}
	})
	f("older than the table", func(t *testing.T, r *rig) {
		r.rollBackOver(t, func() { r.decide(t, hold) }, events.StreamControl)
	})
}
