// Command query serves the audit log over HTTP and manages its keys and policies.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/auditlog/services/query/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := app.Main(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
