// Command ingester moves audit events from NATS JetStream into ClickHouse, each exactly once.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/auditlog/services/ingester/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := app.Main(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
