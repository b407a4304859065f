package jetstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrUnwritable is returned by Writable for a stream that takes no more messages because the server met an error of its disk. The server keeps to
// that until it is restarted, also when the disk has room again, and leaves publishes without an answer meanwhile.
var ErrUnwritable = errors.New("NATS could not write to its disk and stores no more events: make room there, then restart NATS")

// nothing is a subject that no message of AUDIT has: partitions are numbers.
const nothing = "audit.log.none.none"

// Writable asks whether the server can still write the stream. It is the request to remove a message of a subject that has none: the one write to
// a stream that changes nothing, and that a server whose disk failed refuses with the disk's error. Other errors than ErrUnwritable say that there is no
// answer, not that there is a fault.
func Writable(ctx context.Context, stream jetstream.Stream) error {
	err := stream.Purge(ctx, jetstream.WithPurgeSubject(nothing), jetstream.WithPurgeSequence(2))
	if failed := (*jetstream.APIError)(nil); errors.As(err, &failed) && failed.Code == http.StatusInternalServerError {
		return fmt.Errorf("%w: %s", ErrUnwritable, failed.Description)
	}
	if err != nil {
		return fmt.Errorf("ask whether the stream can be written: %w", err)
	}
	return nil
}
