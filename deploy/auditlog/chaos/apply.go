package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// begin makes a fault happen and returns what ends it. A fault that cannot happen, as pausing what is dead, is an error and ends by itself.
func (s *system) begin(ctx context.Context, f Fault) (end func() error, err error) {
	none := func() error { return nil }
	ing, toClickHouse, toNATS := s.ingester[f.Ingester], s.clickhouse[f.Ingester], s.nats[f.Ingester]
	flow := func(p interface{ Flow() }) func() error { return func() error { p.Flow(); return nil } }
	switch f.Kind {
	case KillIngester:
		return ing.start, ing.end(syscall.SIGKILL)
	case StopIngester:
		return ing.start, ing.end(syscall.SIGTERM)
	case PauseIngester:
		ing.signal(syscall.SIGSTOP)
		return func() error { ing.signal(syscall.SIGCONT); return nil }, nil
	case KillClickHouse:
		return func() error { return s.stack.StartClickHouse(ctx) }, s.stack.KillClickHouse()
	case PauseClickHouse:
		return s.stack.ResumeClickHouse, s.stack.PauseClickHouse()
	case KillNATS:
		return func() error { return s.stack.StartNATS(ctx) }, s.stack.KillNATS()
	case PauseNATS:
		pid, err := natsPID()
		if err != nil {
			return none, err
		}
		return func() error { return syscall.Kill(pid, syscall.SIGCONT) }, syscall.Kill(pid, syscall.SIGSTOP)
	case StallClickHouse:
		toClickHouse.Stall()
		return flow(toClickHouse), nil
	case LoseClickHouse:
		toClickHouse.Lose()
		return flow(toClickHouse), nil
	case ResetClickHouse:
		toClickHouse.Reset()
		return none, nil
	case StallNATS:
		toNATS.Stall()
		return flow(toNATS), nil
	case LoseNATS:
		toNATS.Lose()
		return flow(toNATS), nil
	case ResetNATS:
		toNATS.Reset()
		return none, nil
	}
	return none, fmt.Errorf("unknown kind of fault: %q", f.Kind)
}

// tormentor makes the faults of a plan happen.
type tormentor struct {
	system   *system
	recovery *recovery
	began    time.Time
	printf   func(format string, args ...any)

	mu      sync.Mutex // guards what follows
	count   map[Kind]int
	errs    []error
	past    []pastFault
	targets map[string]*sync.Mutex // one fault at a time each, also when one takes longer than planned
}

// pastFault is a fault that has happened, at its real time.
type pastFault struct {
	number int
	Fault
}

// apartPatience bounds how long the recovery from one fault may take.
const apartPatience = 2 * time.Minute

// runApart makes faults happen one after the other, each when everything that had been acknowledged at the end of the one before is in the table, until
// length has passed, or ctx is done.
func (t *tormentor) runApart(ctx context.Context, plan []Fault, length time.Duration) error {
	for i, f := range plan {
		if !sleep(ctx, gapMin) || time.Since(t.began) >= length {
			break
		}
		if err := t.one(ctx, i+1, f); err != nil {
			return fmt.Errorf("fault %d, %s: %w", i+1, f, err)
		}
		for ended := time.Now(); t.recovery.healing(); {
			if time.Since(ended) > apartPatience {
				return fmt.Errorf("fault %d, %s: not recovered after %s", i+1, f, apartPatience)
			}
			if !sleep(ctx, recoveryPoll/4) {
				return nil
			}
		}
	}
	return nil
}

// run makes all faults happen and returns when all have ended, early when ctx is done.
func (t *tormentor) run(ctx context.Context, plan []Fault) error {
	var wg sync.WaitGroup
	for i, f := range plan {
		if !sleep(ctx, time.Until(t.began.Add(f.At))) {
			break
		}
		t.mu.Lock()
		target := t.targets[f.Target]
		if target == nil {
			target = new(sync.Mutex)
			t.targets[f.Target] = target
		}
		t.mu.Unlock()
		wg.Go(func() {
			target.Lock()
			defer target.Unlock()
			if err := t.one(ctx, i+1, f); err != nil {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.errs = append(t.errs, fmt.Errorf("fault %d, %s: %w", i+1, f, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(t.errs...)
}

func (t *tormentor) one(ctx context.Context, number int, f Fault) error {
	t.printf("%8s  fault %d: %s", since(t.began), number, f)
	// What a fault took down comes up again even when the run is interrupted, so that it can be stopped in order.
	began := time.Since(t.began)
	end, err := t.system.begin(context.WithoutCancel(ctx), f)
	sleep(ctx, f.For)
	if err = errors.Join(err, end()); err != nil {
		return err
	}
	f.At, f.For = began, time.Since(t.began)-began
	t.mu.Lock()
	t.count[f.Kind]++
	t.past = append(t.past, pastFault{number, f})
	t.mu.Unlock()
	t.recovery.after(number, f)
	return nil
}

func since(began time.Time) string { return fmt.Sprintf("+%.3fs", time.Since(began).Seconds()) }
