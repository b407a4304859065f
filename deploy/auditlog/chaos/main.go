// Command chaos runs the whole system for a while, breaks it in every way at random, and then proves that the log holds every acknowledged
// event once and nothing else. The faults are a pure function of the seed.
//
// With -break, a mistake is built into the ingester, and the run must find it; -proof does that with each mistake.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitFound = 1 // something is wrong with the log, or the run could not be made
	exitUsage = 2
)

// proofLength and proofSeed make a run that is known to find each mistake.
const (
	proofLength = 25 * time.Second
	proofSeed   = 1
)

// mistakes are what -break takes, and which findings prove that the run has seen it.
var mistakes = map[string][]Sort{
	"ack-first":     {Missing},
	"skip-readback": {Missing},
	"blind-retry":   {Twice},
}

type options struct {
	length   time.Duration
	seed     uint64
	rate     int // events a second
	apart    bool
	breakage string
	out      io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

// command runs the command line and returns the exit status.
func command(ctx context.Context, args []string, out io.Writer) int {
	o := options{out: out}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.DurationVar(&o.length, "for", 2*time.Minute, "how long faults happen")
	flags.Uint64Var(&o.seed, "seed", 0, "seed of the faults; 0 takes one from the clock")
	flags.IntVar(&o.rate, "rate", 1200, "events a second")
	flags.StringVar(&o.breakage, "break", "", "build a mistake into the ingester: ack-first, skip-readback or blind-retry")
	flags.BoolVar(&o.apart, "apart", false, "each fault comes when all has recovered from the one before, for measuring how long that takes")
	proof := flags.Bool("proof", false, "one short run with each mistake, which must find it")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if _, ok := mistakes[o.breakage]; (o.breakage != "" && !ok) || o.length < firstFault || o.rate < writers || flags.NArg() > 0 {
		_, _ = fmt.Fprintln(out, "chaos: wrong arguments: -break takes ack-first, skip-readback or blind-retry; -for at least 1s; -rate at least 4")
		return exitUsage
	}
	if *proof {
		return prove(ctx, o)
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	}
	found, err := torment(ctx, o)
	if err != nil {
		_, _ = fmt.Fprintf(out, "chaos: %v\n", err)
	}
	if err != nil || len(found) > 0 {
		return exitFound
	}
	return 0
}

// prove runs with each mistake and says whether it was found.
func prove(ctx context.Context, o options) int {
	o.length, o.seed = proofLength, proofSeed
	var report []string
	code := 0
	for _, name := range []string{"ack-first", "skip-readback", "blind-retry"} {
		o.breakage = name
		found, err := torment(ctx, o)
		caught := slices.ContainsFunc(found, func(f Finding) bool { return slices.Contains(mistakes[name], f.Sort) })
		switch {
		case err != nil:
			report, code = append(report, fmt.Sprintf("%-14s could not be tried: %v", name, err)), exitFound
		case !caught:
			report, code = append(report, fmt.Sprintf("%-14s NOT CAUGHT", name)), exitFound
		default:
			report = append(report, fmt.Sprintf("%-14s caught: %s", name, found[0]))
		}
		if ctx.Err() != nil {
			break
		}
	}
	_, _ = fmt.Fprintf(o.out, "\nmistakes built into the ingester on purpose\n  %s\n", strings.Join(report, "\n  "))
	return code
}

// torment makes one run in a folder of its own, which stays when something was found.
func torment(ctx context.Context, o options) (found []Finding, err error) {
	dir, err := os.MkdirTemp("", "auditlog-chaos-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	found, err = trial(ctx, o, dir)
	if len(found) == 0 && err == nil || o.breakage != "" || errors.Is(err, context.Canceled) {
		return found, errors.Join(err, os.RemoveAll(dir))
	}
	_, _ = fmt.Fprintf(o.out, "data and logs are kept in %s\n", dir)
	return found, err
}
