package app

import (
	"context"
	"log/slog"
	"time"

	"example.com/auditlog/services/ingester/internal/erasure"
)

// erasedEvery is how often an ingester looks whether somebody was erased.
const erasedEvery = time.Second

// loadErased reads who was erased, up to a decision of the control log whose sequence it returns.
func (s *Service) loadErased(ctx context.Context) (uint64, error) {
	state, err := s.decisions.Load(ctx)
	if err != nil {
		return 0, err
	}
	s.erased.Store(erasure.Of(state))
	return state.Seq, nil
}

// followErased does so as often as there are new decisions. Events that came in before are seen to by the keeper.
func (s *Service) followErased(ctx context.Context) {
	ticker := time.NewTicker(erasedEvery)
	defer ticker.Stop()
	for known, failing := uint64(0), false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		last, err := s.decisions.Last(ctx)
		if err == nil && last != known {
			last, err = s.loadErased(ctx)
		}
		if err == nil {
			known = last
		} else if !failing && ctx.Err() == nil { // once for an outage
			s.log.WarnContext(ctx, "could not look whether somebody was erased, trying again", slog.Any("error", err))
		}
		failing = err != nil
	}
}
