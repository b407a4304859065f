package pipeline

import (
	"context"
	"errors"
	"fmt"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Errors of the pipeline and of what it talks to.
var (
	// ErrInDoubt is returned by Sink.Insert when the block may or may not have been applied, or may still be.
	ErrInDoubt = errors.New("outcome of the insert is unknown")
	// ErrTransient is returned when something certainly was not done and is worth trying again.
	ErrTransient = errors.New("not done, worth trying again")
	// ErrFatal is returned when it will not get better without somebody doing something, which the text says.
	ErrFatal = errors.New("cannot go on")
	// ErrGone is returned by Source.Range when the stream does not hold the messages any more.
	ErrGone = errors.New("messages are no longer in the stream")
	// ErrChanged is returned when the stream holds other messages than the ledger wrote down.
	ErrChanged = errors.New("the stream does not hold what the ledger wrote down")
	// ErrLost is returned when this process may not be the partition's driver any more. It stops, and starts anew when it should.
	ErrLost = errors.New("the partition may have another driver")
)

// Class is what is done about an error.
type Class string

// The classes.
const (
	// Poison: this message can never be a row. It goes to the dead letters with its reason, and the partition goes on.
	Poison Class = "poison"
	// Transient: it was not done. The same again, with pauses that grow, for ever.
	Transient Class = "transient"
	// InDoubt: it may have been done. Look, and do what is missing.
	InDoubt Class = "in doubt"
	// Lost: another process drives the partition, or may. Let go of it; what was in flight is finished by whoever drives it next.
	Lost Class = "lost"
	// Stopping: we were asked to stop. What was in flight is finished at the next start.
	Stopping Class = "stopping"
	// Fatal: the process ends with the error and what to do about it. The next start finishes what was in flight.
	Fatal Class = "fatal"
)

// classes lists every error the pipeline knows, the first that fits an error decides. Errors that are not listed are transient when they come
// from the stream, the ledger or the dead letters (the network, mostly) and fatal when they come from an insert, whose sink sorts its own.
var classes = []struct {
	err   error
	class Class
	help  string
}{
	{context.Canceled, Stopping, ""},
	{events.ErrLogSubject, Poison, ""},
	{ErrInDoubt, InDoubt, ""},
	{ledger.ErrUnknown, Transient, ""},
	{ledger.ErrFenced, Lost, ""},
	{ErrLost, Lost, ""},
	{ledger.ErrCorrupt, Fatal, "the ledger was written to by something else, or damaged: run `ingester verify`; do not delete the ledger"},
	{ledger.ErrTruncated, Fatal, "stream AUDIT_LEDGER was emptied, deleted or restored to an older state: restore NATS from a backup that goes with the table; " +
		"without one, `ingester ledger repair` writes the missing entries from stream and table; docs/ingest.md tells more"},
	{control.ErrLost, Fatal, "stream AUDIT_CONTROL was emptied, deleted or restored to an older state: what was erased or removed could come back. Restore NATS from a backup; " +
		"without one, `ingester control repair` writes the decisions anew from their copy in ClickHouse; docs/lifecycle.md tells more"},
	{control.ErrCorrupt, Fatal, "stream AUDIT_CONTROL was written to by something else, or its copy in ClickHouse was: compare the two; docs/lifecycle.md tells more"},
	{control.ErrMoved, Transient, ""},
	{control.ErrUnknown, Transient, ""},
	{ErrGone, Fatal, "the stream was trimmed or remade before its messages were in the table: restore the stream from a backup; docs/ingest.md tells what else can be done"},
	{ErrChanged, Fatal, "the stream was restored to another state or tampered with: run `ingester verify --deep` before anything else"},
	{ErrFatal, Fatal, ""},
	{ErrTransient, Transient, ""},
	{context.DeadlineExceeded, Transient, ""},
}

// Classify says what is to be done about err, which must not be nil; unlisted is the class of errors the table does not know.
func Classify(err error, unlisted Class) Class {
	var invalid *events.ValidationError
	if errors.As(err, &invalid) {
		return Poison
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.class
		}
	}
	return unlisted
}

// Advise adds to a fatal error what to do about it.
func Advise(err error) error {
	for _, c := range classes {
		if c.help != "" && errors.Is(err, c.err) {
			return fmt.Errorf("%w (%s)", err, c.help)
		}
	}
	return err
}
