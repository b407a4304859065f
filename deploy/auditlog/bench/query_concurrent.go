package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// crowds lets many readers ask all questions, each at its own place in the list, through the API and then bare.
func (b queryBench) crowds(ctx context.Context, l *benchLog, targets *verdicts) error {
	var kinds []question
	for _, q := range l.kinds {
		if err := q.capture(ctx, l); err != nil {
			return err
		}
		if q.kind != long {
			kinds = append(kinds, q)
		}
	}
	for _, setting := range b.concurrent {
		var env []string
		name := "the default"
		if setting != "" {
			env, name = []string{"AUDIT_MAX_CONCURRENT=" + setting}, setting
		}
		if err := l.restart(ctx, env...); err != nil { // also for a peak of these readers alone
			return err
		}
		if err := b.crowdsWith(ctx, l, targets, kinds, name); err != nil {
			return err
		}
	}
	return nil
}

// crowdsWith compares readers through the API and bare, half of the time of the bare ones before and half after, for the machine changes under us.
func (b queryBench) crowdsWith(ctx context.Context, l *benchLog, targets *verdicts, kinds []question, setting string) error {
	bare := func(ctx context.Context, i int) error { return replay(ctx, l.db, kinds[i%len(kinds)].queries) }
	before, err := b.crowd(ctx, b.readFor/2, bare)
	if err != nil {
		return err
	}
	through, apiErr := b.crowd(ctx, b.readFor, func(ctx context.Context, i int) error {
		_, err := l.api.get(ctx, kinds[i%len(kinds)].path)
		return err
	})
	after, err := b.crowd(ctx, b.readFor/2, bare)
	if err != nil {
		return err
	}
	if apiErr != nil {
		fmt.Printf("  of the API's answers failed %d, such as: %v\n", through.failed, apiErr)
	}
	bareRate := float64(before.done+after.done) / (before.took + after.took).Seconds()
	peak := peakMiB(l.service.cmd.Process.Pid)
	fmt.Printf("  %d readers of all questions, AUDIT_MAX_CONCURRENT %s: API %s; bare SQL %.0f/s; API / bare %.2f; service %.0f MiB at its peak\n",
		b.readers, setting, through, bareRate, through.rate()/max(bareRate, 1e-9), peak)
	with := fmt.Sprintf("%d readers, concurrent %s: ", b.readers, setting)
	targets.atLeast(with+"API / bare SQL", through.rate()/max(bareRate, 1e-9), 0.8)
	targets.atMost(with+"errors", float64(through.failed), 0)
	targets.atMost(with+"service's peak, MiB", peak, 150)
	return nil
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

// crowd lets b.readers call ask for a time. err is the first failure.
func (b queryBench) crowd(ctx context.Context, lasting time.Duration, ask func(context.Context, int) error) (result crowdResult, err error) {
	var done, failed atomic.Int64
	var first atomic.Pointer[error]
	var readers sync.WaitGroup
	began := time.Now()
	for reader := range b.readers {
		readers.Go(func() {
			for i := reader; time.Since(began) < lasting && ctx.Err() == nil; i++ {
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
