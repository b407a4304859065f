// Command bench measures the system on this machine against what its engines can do bare, in one run, so that the ratios
// hold whatever the machine. It starts its own engines on free ports and a temporary folder, and stops them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.events, "events", 1_000_000, "events in the backlog")
	flag.IntVar(&o.tenants, "tenants", 100, "tenants they belong to")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built commands")
	flag.StringVar(&o.only, "only", "", "one part alone: publish, ingest, tenants, fresh or query (which loads its own events and is not part of a run of all), or a part of query: load, pages, readers, export")
	flag.StringVar(&o.data, "data", "", "folder for the engines' data, kept: a part of query does not load what is there already")
	flag.StringVar(&o.concurrent, "concurrent", "", "settings of AUDIT_MAX_CONCURRENT to measure readers with, such as 4,8,16; the service's default without it")
	flag.Parse()
	fmt.Printf("%d cores, %s/%s, %s; %d events, %d tenants\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), o.events, o.tenants)
	parts := []struct {
		name string
		run  func(context.Context, options, *verdicts) error
	}{{"publish", benchPublish}, {"ingest", benchIngest}, {"tenants", benchTenants}, {"fresh", benchFreshness}}
	for _, name := range append([]string{partQuery}, queryParts...) {
		if o.only == name {
			fmt.Println()
			return benchQuery(ctx, o)
		}
	}
	targets := &verdicts{}
	for _, p := range parts {
		if o.only != p.name && o.only != "" {
			continue
		}
		fmt.Printf("\n%s\n", p.name)
		if err := p.run(ctx, o, targets); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	targets.print()
	return nil
}

type options struct {
	events, tenants             int
	bin, only, data, concurrent string
}
