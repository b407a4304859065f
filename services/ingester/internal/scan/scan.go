// Package scan reads streams as their leaders have them.
//
// In a cluster of NATS servers a reader (a consumer of one replica) lives on any server that has the stream, and a direct get is answered by any; one that
// has just come back lacks what was stored meanwhile, and says of it that there is none. So what there is to read is asked of the leader, which does not answer
// before it has applied all that was stored when it became one, and a reader is waited for, or exchanged for one elsewhere, until all of that has come.
//
// Such a server ends early; it does not pass over anything (nats-server 2.15.2): a replica stores each message under the sequence that follows its last
// one or refuses it (fileStore.StoreRawMsg, ErrSequenceMismatch), passes over sequences only where the leader says that it has no message there (processCatchupMsg, deleteRangeOp;
// processSnapshotDeletes), and a consumer reads its own server's replica in that order and waits at its end (getNextMsg, LoadNextMsg). What a server lacks whose disk has lost
// something is another matter: the ledger's hashes tell.
//
// A consumer's count of what is pending is of its server's replica too, and when it began behind the end of that it counts messages that it will
// not deliver (processStreamSignal). Nothing here ends by it.
package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrBehind is returned when messages that the leader has do not come.
var ErrBehind = errors.New("messages that the stream has do not come: its servers lack them, or do not answer. See `nats stream info`, and run it again when no replica lags")

const (
	// requestTimeout bounds a request to the server, which answers within milliseconds. A request that was sent while the server went down is
	// never answered, so this is also how long that costs.
	requestTimeout = 2 * time.Second
	// idle is after which the server forgets a reader that does not come back.
	idle = time.Minute
	// countIdle is that of one that was made to count.
	countIdle = 5 * time.Second
	// codeNoMessage is the server's answer when there is no such message.
	codeNoMessage jetstream.ErrorCode = 10037
)

// Limits, which tests lower.
var (
	// stall is how long a reader may bring nothing before another one is made, which may live on another server.
	stall = 5 * time.Second
	// stalls is how many readers in a row may bring nothing.
	stalls = 12
)

// Stored is a message as the stream's leader has it.
type Stored struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	// Header is as it was sent, or empty.
	Header []byte `json:"hdrs"`
}

// Deleted says whether the message stands for the end of a key in a bucket.
func (m Stored) Deleted() bool {
	if len(m.Header) == 0 {
		return false
	}
	h, err := nats.DecodeHeadersMsg(m.Header)
	return err == nil && h.Get("KV-Operation") != ""
}

// Next asks the leader for the first message at or after seq on the subject, which may have wildcards.
func Next(ctx context.Context, nc *nats.Conn, stream string, seq uint64, subject string) (m Stored, found bool, err error) {
	m, found, err = get(ctx, nc, stream, map[string]any{"seq": max(seq, 1), "next_by_subj": subject})
	if err != nil {
		return m, false, fmt.Errorf("ask stream %s for the message after %d: %w", stream, seq, err)
	}
	return m, found, nil
}

// Last asks the leader for the last message on the subject, which may have wildcards.
func Last(ctx context.Context, nc *nats.Conn, stream, subject string) (m Stored, found bool, err error) {
	m, found, err = get(ctx, nc, stream, map[string]any{"last_by_subj": subject})
	if err != nil {
		return m, false, fmt.Errorf("ask stream %s for its last message: %w", stream, err)
	}
	return m, found, nil
}

// get asks as the client's own GetMsg does not: that one asks any replica of a stream that allows it.
func get(ctx context.Context, nc *nats.Conn, stream string, question map[string]any) (m Stored, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	query, err := json.Marshal(question)
	if err != nil {
		return m, false, fmt.Errorf("encode request: %w", err)
	}
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+stream, query)
	if err != nil {
		return m, false, err
	}
	var answer struct {
		Message *Stored             `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return m, false, fmt.Errorf("read the server's answer: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == codeNoMessage:
		return m, false, nil
	case answer.Error != nil:
		return m, false, answer.Error
	case answer.Message == nil:
		return m, false, errors.New("empty answer")
	}
	return *answer.Message, true, nil
}

// Since returns the sequence of the first message on the subject from lo on that is not older than t, or hi when those before hi all are. The leader is asked.
func Since(ctx context.Context, nc *nats.Conn, stream, subject string, lo, hi uint64, t time.Time) (uint64, error) {
	at := hi
	for lo < hi {
		mid := lo + (hi-lo)/2
		m, found, err := Next(ctx, nc, stream, mid, subject)
		if err != nil {
			return 0, err
		}
		switch {
		case !found || m.Seq >= hi:
			hi = mid
		case m.Time.Before(t):
			lo = m.Seq + 1
		default:
			hi, at = mid, m.Seq
		}
	}
	return at, nil
}

// Count is how many messages on the subjects there are from a sequence on. A server that is behind may be asked, which counts too few, but none only when the leader has none.
// oldest is the time of the first of them.
func Count(ctx context.Context, js jetstream.JetStream, stream string, subjects []string, from uint64) (n uint64, oldest time.Time, err error) {
	there := false
	for _, subject := range subjects {
		m, found, err := Next(ctx, js.Conn(), stream, from, subject)
		if err != nil {
			return 0, oldest, err
		}
		if found && (!there || m.Time.Before(oldest)) {
			there, oldest = true, m.Time
		}
	}
	if !there {
		return 0, oldest, nil
	}
	consumer, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(from, 1),
		FilterSubjects:    subjects,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		InactiveThreshold: countIdle,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return 0, oldest, fmt.Errorf("count from sequence %d of stream %s: %w", from, stream, err)
	}
	forget(ctx, js, stream, consumer)
	return max(consumer.CachedInfo().NumPending, 1), oldest, nil
}

// forget removes a consumer from the server, which would do so itself after a while.
func forget(ctx context.Context, js jetstream.JetStream, stream string, consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	_ = js.DeleteConsumer(ctx, stream, consumer.CachedInfo().Name)
}
