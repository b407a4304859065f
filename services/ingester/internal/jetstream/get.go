package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// stored is a message as the stream's leader has it.
type stored struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
}

// codeNoMessage is the server's answer when there is no such message.
const codeNoMessage = 10037

// next asks the leader for the first message at or after seq on the subject, which may have wildcards. The client's own GetMsg would ask any
// replica, of which one that lags says "there is none" about a message that was acknowledged.
func next(ctx context.Context, nc *nats.Conn, seq uint64, subject string) (m stored, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	query, err := json.Marshal(map[string]any{"seq": seq, "next_by_subj": subject})
	if err != nil {
		return m, false, fmt.Errorf("encode request: %w", err)
	}
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+events.StreamAudit, query)
	if err != nil {
		return m, false, fmt.Errorf("ask for the message after %d: %w", seq, err)
	}
	var answer struct {
		Message *stored             `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return m, false, fmt.Errorf("ask for the message after %d: %w", seq, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == codeNoMessage:
		return m, false, nil
	case answer.Error != nil:
		return m, false, fmt.Errorf("ask for the message after %d: %w", seq, answer.Error)
	case answer.Message == nil:
		return m, false, fmt.Errorf("ask for the message after %d: empty answer", seq)
	}
	return *answer.Message, true, nil
}

// ofPartition is the subject of every message of a partition.
func ofPartition(partition int) string { return "audit.log." + strconv.Itoa(partition) + ".*" }

// partitionOf reads the partition from a subject the stream stores under; -1 for any other.
func partitionOf(subject string) int {
	const prefix = "audit.log."
	if len(subject) < len(prefix) || subject[:len(prefix)] != prefix {
		return -1
	}
	n, digits := 0, 0
	for i := len(prefix); i < len(subject) && subject[i] != '.'; i++ {
		c := subject[i] - '0'
		if c > 9 || digits == 5 {
			return -1
		}
		n = n*10 + int(c)
		digits++
	}
	if digits == 0 {
		return -1
	}
	return n
}
