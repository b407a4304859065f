package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/sony/gobreaker/v2"

	"example.com/auditlog/services/query/internal/audit"
)

// When the circuit breaker opens, and for how long: requests are then refused at once instead of piling up before a dead store.
const (
	breakerFailures = 5
	breakerOpen     = 2 * time.Second
	breakerProbes   = 2
)

// Exceptions of the server that are not the fault of the query.
var (
	timeoutCodes = map[int32]bool{159: true /* TIMEOUT_EXCEEDED */, 160: true /* TOO_SLOW */, 209: true /* SOCKET_TIMEOUT */, 394: true /* QUERY_WAS_CANCELLED */}
	// faultCodes say that the query itself is wrong: a fault of this program, which another attempt will not mend.
	faultCodes = map[int32]bool{
		36: true /* BAD_ARGUMENTS */, 43: true /* ILLEGAL_TYPE_OF_ARGUMENT */, 46: true, /* UNKNOWN_FUNCTION */
		53: true /* TYPE_MISMATCH */, 62: true /* SYNTAX_ERROR */, 386: true /* NO_COMMON_TYPE */, 456: true, /* UNKNOWN_QUERY_PARAMETER */
		457: true, /* BAD_QUERY_PARAMETER */
	}
)

// tooManyRows is TOO_MANY_ROWS: a query would read more rows than it was allowed to, and was not begun.
const tooManyRows = 158

// errRow means that a row does not have the columns that this program expects: a fault of this program or of the schema.
var errRow = errors.New("read an event")

func newBreaker(log *slog.Logger) *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        "event store",
		MaxRequests: breakerProbes,
		Timeout:     breakerOpen,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		// What a caller gave up on, and what is wrong with a query, says nothing about the store.
		IsExcluded: func(err error) bool {
			return err != nil && !errors.Is(err, audit.ErrUnavailable) && !errors.Is(err, audit.ErrTimeout)
		},
		OnStateChange: func(_ string, from, to gobreaker.State) {
			log.Warn("circuit breaker of the event store", slog.String("from", from.String()), slog.String("to", to.String()))
		},
	})
}

// guard runs f within the time budget, behind the circuit breaker, and gives its error a class.
func (r *Reader) guard(ctx context.Context, f func(context.Context) error) error {
	return r.protect(func() error {
		budget, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		err := f(budget)
		if err != nil && ctx.Err() == nil && budget.Err() != nil {
			return fmt.Errorf("%w (%s): %w", audit.ErrTimeout, r.timeout, err)
		}
		return classify(ctx, err)
	})
}

// protect runs f behind the circuit breaker.
func (r *Reader) protect(f func() error) error {
	_, err := r.breaker.Execute(func() (struct{}, error) { return struct{}{}, f() })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return fmt.Errorf("%w: %w", audit.ErrUnavailable, err)
	}
	return err
}

// classify tells the end of the caller, the budget, the store and our own faults apart.
func classify(caller context.Context, err error) error {
	var e *chgo.Exception
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return caller.Err()
	case errors.Is(err, errRow):
		return err
	case !errors.As(err, &e):
		return fmt.Errorf("%w: %w", audit.ErrUnavailable, err)
	case timeoutCodes[e.Code]:
		return fmt.Errorf("%w: %w", audit.ErrTimeout, err)
	case faultCodes[e.Code]:
		return err
	}
	return fmt.Errorf("%w: %w", audit.ErrUnavailable, explain(err))
}

// isBroken says whether the connection failed rather than the query.
func isBroken(err error) bool {
	var e *chgo.Exception
	return !errors.As(err, &e) && !errors.Is(err, errRow) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// explain adds what to do about an error that operators meet at first start.
func explain(err error) error {
	var e *chgo.Exception
	if errors.As(err, &e) && (e.Code == 60 /* UNKNOWN_TABLE */ || e.Code == 81 /* UNKNOWN_DATABASE */) {
		return fmt.Errorf("the event table is missing: start the ingester, which creates it: %w", err)
	}
	return fmt.Errorf("query clickhouse: %w", err)
}
