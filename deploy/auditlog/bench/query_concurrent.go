package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// concurrent lets many readers ask all questions, each at its own place in the list, through the API and then bare.
func (b queryBench) concurrent(ctx context.Context, api *apiReader, db driver.Conn, kinds []question) error {
	through, apiErr := b.crowd(ctx, func(ctx context.Context, i int) error {
		_, err := api.get(ctx, kinds[i%len(kinds)].path)
		return err
	})
	bare, bareErr := b.crowd(ctx, func(ctx context.Context, i int) error { return replay(ctx, db, kinds[i%len(kinds)].queries) })
	fmt.Printf("  %d readers of all questions: API %s; bare SQL %s; API / bare %.2f\n", b.readers, through, bare, through.rate()/max(bare.rate(), 1e-9))
	if apiErr != nil {
		apiErr = fmt.Errorf("%d of the API's answers failed, such as: %w", through.failed, apiErr)
	}
	return errors.Join(apiErr, bareErr)
}

// crowdResult is what many readers got.
type crowdResult struct {
	done, failed int64
	took         time.Duration
}

func (r crowdResult) rate() float64 { return float64(r.done) / r.took.Seconds() }

// String is the rate of answers.
func (r crowdResult) String() string {
	return fmt.Sprintf("%.0f/s, %d failed", r.rate(), r.failed)
}

// crowd lets b.readers call ask for b.readFor. err is the first failure.
func (b queryBench) crowd(ctx context.Context, ask func(context.Context, int) error) (result crowdResult, err error) {
	var done, failed atomic.Int64
	var first atomic.Pointer[error]
	var readers sync.WaitGroup
	began := time.Now()
	for reader := range b.readers {
		readers.Go(func() {
			for i := reader; time.Since(began) < b.readFor && ctx.Err() == nil; i++ {
				if err := ask(ctx, i); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
					continue
				}
				done.Add(1)
			}
		})
	}
	readers.Wait()
	result = crowdResult{done: done.Load(), failed: failed.Load(), took: time.Since(began)}
	if p := first.Load(); p != nil {
		err = *p
	}
	return result, err
}
