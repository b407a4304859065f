package jetstream

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// maxDeadLettersInFlight bounds how many dead letters wait for their acknowledgement.
const maxDeadLettersInFlight = 256

// DeadLetters publishes to the stream AUDIT_DLQ. It implements pipeline.DeadLetters.
type DeadLetters struct{ js jetstream.JetStream }

// NewDeadLetters returns the DeadLetters of js.
func NewDeadLetters(js jetstream.JetStream) *DeadLetters { return &DeadLetters{js: js} }

// Publish implements pipeline.DeadLetters.
func (d *DeadLetters) Publish(ctx context.Context, letters []pipeline.DeadLetter) error {
	for len(letters) > 0 {
		n := min(len(letters), maxDeadLettersInFlight)
		if err := d.publish(ctx, letters[:n]); err != nil {
			return err
		}
		letters = letters[n:]
	}
	return nil
}

func (d *DeadLetters) publish(ctx context.Context, letters []pipeline.DeadLetter) error {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	now := time.Now().UTC()
	acks := make([]jetstream.PubAckFuture, len(letters))
	for i := range letters {
		ack, err := d.js.PublishMsgAsync(deadLetterMessage(&letters[i], now), jetstream.WithExpectStream(events.StreamDLQ))
		if err != nil {
			return fmt.Errorf("publish dead letter of sequence %d: %w", letters[i].Seq, err)
		}
		acks[i] = ack
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return fmt.Errorf("publish dead letter of sequence %d: %w", letters[i].Seq, err)
		case <-ctx.Done():
			return fmt.Errorf("publish dead letter of sequence %d: %w", letters[i].Seq, ctx.Err())
		}
	}
	return nil
}

// deadLetterMessage wraps the bytes of the message, untouched, with why and from where. Its message id is its sequence, so that sending it
// again adds nothing.
func deadLetterMessage(l *pipeline.DeadLetter, now time.Time) *nats.Msg {
	tenant := l.Subject[strings.LastIndexByte(l.Subject, '.')+1:]
	msg := nats.NewMsg(strings.TrimSuffix(events.SubjectDLQ, "*") + tenant)
	msg.Data = l.Data
	msg.Header.Set(jetstream.MsgIDHeader, "audit-"+strconv.FormatUint(l.Seq, 10))
	msg.Header.Set(events.HeaderError, l.Reason)
	msg.Header.Set(events.HeaderField, strings.Join(l.Fields, ","))
	msg.Header.Set(events.HeaderSequence, strconv.FormatUint(l.Seq, 10))
	msg.Header.Set(events.HeaderSubject, l.Subject)
	msg.Header.Set(events.HeaderReceived, l.Time.UTC().Format(time.RFC3339Nano))
	msg.Header.Set(events.HeaderRefused, now.Format(time.RFC3339Nano))
	return msg
}
