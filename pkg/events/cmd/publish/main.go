// Command publish sends events from a file or standard input to the audit log: one JSON object a line, plain or gzip, each with its tenant_id. Running it
// twice changes nothing, because an event is known by its id.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/events"
)

const usage = `usage: publish [FILE.ndjson[.gz]]
       publish --version

Publishes the events in FILE, or in standard input when FILE is absent or "-", to the audit log and waits until each is stored.
A line is one event as JSON with its tenant_id; gzip is recognised by itself. A line that is no valid event is reported with every fault and
does not stop the others. Events that are there already are left alone.

Environment:
  AUDIT_NATS_URL    one or several server URLs, separated by commas (` + nats.DefaultURL + `)
  AUDIT_NATS_CREDS  path of a NATS credentials file
  AUDIT_NATS_CA     path of a PEM file with the authorities to trust

Exit status: 0 when every line is stored, 1 when some are not, 2 for a wrong call or setting.
`

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// drainTime is how long the events on their way may take once there are no more to read.
const drainTime = events.DefaultRetryFor + events.DefaultAckWait

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the whole command. It returns the exit status. When ctx ends it reads no further, waits for what is on its way and sums up.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "-help") {
		_, _ = io.WriteString(stdout, usage)
		return exitOK
	}
	if len(args) == 1 && args[0] == "--version" {
		_, _ = fmt.Fprintln(stdout, "publish", buildVersion())
		return exitOK
	}
	if len(args) > 1 || len(args) == 1 && len(args[0]) > 1 && args[0][0] == '-' {
		_, _ = io.WriteString(stderr, usage)
		return exitUsage
	}
	options, err := natsOptions(getenv)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return exitUsage
	}
	in, size := stdin, int64(0)
	if len(args) == 1 && args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			_, _ = fmt.Fprintln(stderr, "publish:", err)
			return exitUsage
		}
		defer func() { _ = file.Close() }() // only read from
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	ok, err := publish(ctx, natsURL(getenv), options, in, size, stdout, stderr)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "publish:", err)
	}
	if err != nil || !ok {
		return exitFailed
	}
	return exitOK
}

func natsURL(getenv func(string) string) string {
	if url := getenv("AUDIT_NATS_URL"); url != "" {
		return url
	}
	return nats.DefaultURL
}

// natsOptions reads the settings; the error names every fault.
func natsOptions(getenv func(string) string) ([]nats.Option, error) {
	options := []nats.Option{nats.Name("audit publish"), nats.MaxReconnects(-1)}
	var faults []error
	add := func(name string, option func(path string) nats.Option) {
		path := getenv(name)
		if path == "" {
			return
		}
		if _, err := os.Stat(path); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			return
		}
		options = append(options, option(path))
	}
	add("AUDIT_NATS_CREDS", func(path string) nats.Option { return nats.UserCredentials(path) })
	add("AUDIT_NATS_CA", func(path string) nats.Option { return nats.RootCAs(path) })
	return options, errors.Join(faults...)
}

// publish sends what in holds. ok says that every line is stored.
func publish(ctx context.Context, url string, options []nats.Option, in io.Reader, size int64, stdout, stderr io.Writer) (ok bool, err error) {
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return false, fmt.Errorf("connect to NATS (AUDIT_NATS_URL): %w", err)
	}
	defer nc.Close()
	publisher, err := events.NewPublisher(nc)
	if err != nil {
		return false, err
	}
	counted := &countingReader{r: in}
	s := newSender(publisher, stderr)
	bar := newBar(stderr, size, counted, s)
	start := time.Now()

	readErr := s.readAll(ctx, counted)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	closeErr := publisher.Close(drain)
	s.finish()
	bar.stop()

	_, _ = fmt.Fprintln(stdout, s.summary(time.Since(start)))
	if ctx.Err() != nil {
		readErr = errors.New("interrupted, the rest was not read")
	}
	return s.refused.Load() == 0 && s.failed.Load() == 0, errors.Join(readErr, closeErr)
}
