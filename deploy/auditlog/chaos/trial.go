package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// drainPatience bounds how long after the last fault everything may take to be in the table.
	drainPatience = 90 * time.Second
	// closePatience bounds how long after the last fault the publisher may take to settle what it has.
	closePatience = 70 * time.Second
)

// trial is one run in dir: start, faults, drain, check. It leaves no process behind.
func trial(ctx context.Context, o options, dir string) (found []Finding, err error) {
	printf := func(format string, args ...any) { _, _ = fmt.Fprintf(o.out, format+"\n", args...) }
	plan := Plan(o.seed, o.length)
	pace := ""
	if o.apart {
		pace = " -apart"
	}
	printf("chaos: seed %d, at most %d faults in %s, %d events/s, %d tenants, %d ingesters%s; repeat with -for %s -seed %d%s",
		o.seed, len(plan), o.length, o.rate, tenants, ingesters, note(o.breakage), o.length, o.seed, pace)
	if err := build(ctx, dir, o.breakage); err != nil {
		return nil, err
	}
	s, err := startSystem(ctx, dir, o.breakage)
	if err != nil {
		return nil, fmt.Errorf("start the system: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	j := newJournal()
	p, err := newProducer(s.stack.NATSURL(), o.seed, o.rate, j)
	if err != nil {
		return nil, err
	}
	r, err := newRecovery(s.stack.NATSURL(), j)
	if err != nil {
		return nil, err
	}
	defer r.nc.Close()
	t := &tormentor{system: s, recovery: r, began: j.began, printf: printf, count: map[Kind]int{}, targets: map[string]*sync.Mutex{}}
	w := &watcher{system: s, doubled: map[string]bool{}}
	c := &counters{last: map[string]float64{}}
	background(ctx, func(ctx context.Context, wg *sync.WaitGroup) {
		wg.Go(func() { r.run(ctx) })
		wg.Go(func() { w.run(ctx) })
		for i, svc := range s.ingester {
			wg.Go(func() { c.follow(ctx, svc, s.ops[i]) })
		}
		found = suffer(ctx, o, plan, t, p, r, s)
		time.Sleep(2 * scrapeEvery) // the last counts
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := s.gather(ctx, r, j, w, p.tenants, o.seed)
	if err != nil {
		return found, fmt.Errorf("read the log: %w", err)
	}
	found = append(found, check(j, f, blame(t.past))...)
	summary{j: j, f: f, t: t, r: r, c: c, s: s, missing: count(found, Missing, "in the view")}.print(printf)
	if o.apart {
		for _, line := range r.kinds() {
			printf("           %s", line)
		}
	}
	for _, f := range found {
		printf("FAILED: %s", f)
	}
	if len(found) == 0 {
		printf("OK: every acknowledged event is in the log once, in order, and nothing else is")
	}
	return found, nil
}

// suffer publishes while the faults of the plan happen, then waits until everything has come to rest.
func suffer(ctx context.Context, o options, plan []Fault, t *tormentor, p *producer, r *recovery, s *system) (found findings) {
	publishing, stop := context.WithTimeout(ctx, o.length)
	defer stop()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.length+closePatience)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)() // interrupted: nobody waits for acknowledgements
	produced := make(chan error, 1)
	go func() { produced <- p.run(publishing, closing) }()
	torment := func() error { return t.run(ctx, plan) }
	if o.apart {
		torment = func() error { return t.runApart(ctx, plan, o.length) }
	}
	if err := torment(); err != nil {
		found.add(FaultError, "", err.Error())
	}
	if err := <-produced; err != nil && ctx.Err() == nil {
		found.add(Unserved, "publisher", err.Error())
	}
	select {
	case err := <-s.stack.Failed():
		found.add(Unserved, "ClickHouse", err.Error())
	default:
	}
	if ctx.Err() != nil {
		return found
	}
	t.printf("%8s  faults have ended, waiting until everything is in the table", since(t.began))
	ended := time.Now()
	if err := r.drain(ctx, drainPatience); err != nil && ctx.Err() == nil {
		found.add(Undrained, "", err.Error())
	}
	t.printf("%8s  drained in %s", since(t.began), time.Since(ended).Round(time.Millisecond))
	return found
}

// background runs fn, then ends what fn has started in the group and waits for it.
func background(ctx context.Context, fn func(context.Context, *sync.WaitGroup)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	fn(ctx, &wg)
}

// blame names the faults that were on when an event was acknowledged, or began within two seconds after.
func blame(past []pastFault) func(*entry) string {
	return func(e *entry) string {
		var names []string
		for _, f := range past {
			if f.At < e.at+2*time.Second && e.at < f.At+f.For {
				names = append(names, fmt.Sprintf("fault %d, %s at +%s", f.number, f, f.At.Round(time.Millisecond)))
			}
		}
		if len(names) == 0 {
			return ""
		}
		return "; around that time: " + strings.Join(names, "; ")
	}
}

func note(breakage string) string {
	if breakage == "" {
		return ""
	}
	return ", ingester broken on purpose: " + breakage
}

// summary tells what happened.
type summary struct {
	j *journal
	f *facts
	t *tormentor
	r *recovery
	c *counters
	s *system

	missing int // acknowledged events that the view has not
}

func (s summary) print(printf func(string, ...any)) {
	letters := 0
	for _, n := range s.f.letters {
		letters += n
	}
	printf("\nevents     %d published, %d acknowledged, %d published once more; %d messages in the stream", len(s.j.events), s.j.acked, s.j.again, s.f.stream)
	printf("log        %d in the view, %d by the API, %d dead letters, %d duplicates folded",
		len(s.f.view), len(s.f.walk), letters, int(s.f.stream)-letters-len(s.f.view)-s.missing) //nolint:gosec // a count
	var kinds []string
	for _, k := range shapes {
		if n := s.t.count[k.kind]; n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, k.kind))
		}
	}
	printf("faults     %s", strings.Join(kinds, ", "))
	lostC, lostN := int64(0), int64(0)
	for i := range ingesters {
		lostC, lostN = lostC+s.s.clickhouse[i].Lost(), lostN+s.s.nats[i].Lost()
	}
	printf("replies    %d of ClickHouse and %d of NATS lost after their request was passed on", lostC, lostN)
	printf("settled    %d inserts in doubt, %d rows found there and not sent again, %d partitions let go",
		s.c.total("inserts_in_doubt_total"), s.c.total("rows_already_there_total"), s.c.total("partitions_lost_total"))
	printf("recovery   until everything acknowledged was in the table: %s", s.r.slowest())
	for _, svc := range append([]*service{s.s.query}, s.s.ingester[:]...) {
		if exits := svc.ownExits(); len(exits) > 0 {
			printf("note       %s ended by itself %d times and was started again: %s; its last words: %s", svc.name, len(exits), exits[len(exits)-1], lastWords(svc.log))
		}
	}
}

// lastWords is the last line of a log that is not JSON: what a program says when it gives up.
func lastWords(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	words := "none"
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "{") {
			words = strings.TrimSpace(line)
		}
	}
	return words
}
