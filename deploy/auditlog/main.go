// Command auditlog is the whole system on one machine: NATS in process, ClickHouse as a child, ingester, query service.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/auditlog/deploy/auditlog/local"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := local.Main(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
