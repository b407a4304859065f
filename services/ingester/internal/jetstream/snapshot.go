package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/scan"
)

const (
	// snapshotChunk is how much of a stream one message of a copy holds, snapshotWindow how much of them may wait here.
	snapshotChunk  = 128 << 10
	snapshotWindow = 4 << 20
	// restoreBlock is how much, uncompressed, goes back in one message. The server stores what is in it, flushing every message of the stream, before it
	// takes the next, and gives up when that takes 5 s: the blocks of 1 MiB that it compressed would hold thousands.
	restoreBlock = 8 << 10
	// snapshotStall is how long the next chunk, or the word that one was taken, may take. The server itself gives a reader up after a few seconds.
	snapshotStall = time.Minute
	// bucketPrefix begins the name of a bucket's stream.
	bucketPrefix = "KV_"
)

// Snapshot is a stream's configuration and state as the server wrote them for its copy. It has the form of the file backup.json of `nats stream backup`.
type Snapshot struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

// SnapshotState is what a copy of a stream holds.
type SnapshotState struct {
	Messages uint64 `json:"messages"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
}

// Summary reads the state.
func (s Snapshot) Summary() (out SnapshotState, err error) {
	if err := json.Unmarshal(s.State, &out); err != nil {
		return out, fmt.Errorf("read the state of a snapshot: %w", err)
	}
	return out, nil
}

// Names returns the streams of the audit log that are there, buckets among them, in order. The heartbeats of the ingesters are not: they say who runs
// now. What others have in the same account is not ours.
func Names(ctx context.Context, js jetstream.JetStream) ([]string, error) {
	var names []string
	list := js.StreamNames(ctx)
	for name := range list.Name() {
		ours := strings.HasPrefix(name, events.StreamAudit) || strings.HasPrefix(name, bucketPrefix+"audit_")
		if ours && name != bucketPrefix+BucketIngesters {
			names = append(names, name)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// IsBucket says whether a stream is a bucket's.
func IsBucket(stream string) bool { return strings.HasPrefix(stream, bucketPrefix) }

// PositionsStream is the stream of the bucket of positions.
const PositionsStream = bucketPrefix + ledger.BucketPositions

// FirstOpen returns the sequence of the first message of the stream that is after its partition's sequence in through, or one past the last. All before
// it are covered.
func FirstOpen(ctx context.Context, js jetstream.JetStream, partitions int, through func(partition int) (uint64, error)) (uint64, error) {
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return 0, fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	open := stream.CachedInfo().State.LastSeq + 1
	for p := range partitions {
		seq, err := through(p)
		if err != nil {
			return 0, err
		}
		m, found, err := scan.Next(ctx, js.Conn(), events.StreamAudit, seq+1, events.PartitionSubject(p))
		if err != nil {
			return 0, err
		}
		if found {
			open = min(open, m.Seq)
		}
	}
	return open, nil
}

// Save writes a copy of the stream to w as the server sends it, consumers left out, and returns what goes with it. The copy is of one moment. It is whole
// only if the error is nil.
func Save(ctx context.Context, nc *nats.Conn, stream string, w io.Writer) (Snapshot, error) {
	snap, err := save(ctx, nc, stream, w)
	if err != nil {
		return snap, fmt.Errorf("copy stream %s: %w", stream, err)
	}
	return snap, nil
}

func save(ctx context.Context, nc *nats.Conn, stream string, w io.Writer) (snap Snapshot, err error) {
	before := nc.Stats().Reconnects
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return snap, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	// The server waits for acknowledgements before it sends more than a window, so this is no queue without end.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return snap, err
	}
	question := map[string]any{"deliver_subject": sub.Subject, "no_consumers": true, "chunk_size": snapshotChunk, "window_size": snapshotWindow}
	if err := ask(ctx, nc, "STREAM.SNAPSHOT."+stream, question, snapshotStall, &snap); err != nil {
		return snap, err
	}
	for n := 1; ; n++ {
		m, err := nextChunk(ctx, sub)
		if err != nil {
			return snap, err
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return snap, fmt.Errorf("the server gave up: %s %s", status, m.Header.Get("Description"))
			}
			break
		}
		if m.Reply != "" && !strings.HasSuffix(m.Reply, "."+strconv.Itoa(len(m.Data))+"."+strconv.Itoa(n)) {
			return snap, fmt.Errorf("a part was lost on the way: the server says %s for part %d of %d bytes", m.Reply, n, len(m.Data))
		}
		if _, err := w.Write(m.Data); err != nil {
			return snap, err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return snap, err
			}
		}
	}
	if nc.Stats().Reconnects != before {
		return snap, errors.New("the connection to NATS was lost meanwhile, and parts of the copy with it")
	}
	return snap, nil
}

func nextChunk(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotStall, fmt.Errorf("the server sent nothing for %s", snapshotStall))
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return m, err
}

// Restore makes the stream that snap and r are a copy of, on so many servers, and returns what it holds then. There must be none of its name.
func Restore(ctx context.Context, nc *nats.Conn, snap Snapshot, replicas int, r io.Reader) (SnapshotState, error) {
	var config map[string]json.RawMessage
	if err := json.Unmarshal(snap.Config, &config); err != nil {
		return SnapshotState{}, fmt.Errorf("restore a stream: read its configuration: %w", err)
	}
	name := strings.Trim(string(config["name"]), `"`)
	config["num_replicas"] = json.RawMessage(strconv.Itoa(replicas))
	state, err := restore(ctx, nc, name, map[string]any{"config": config, "state": snap.State}, r)
	if err != nil {
		return state, fmt.Errorf("restore stream %s: %w", name, err)
	}
	return state, nil
}

func restore(ctx context.Context, nc *nats.Conn, name string, question any, r io.Reader) (SnapshotState, error) {
	var begun struct {
		DeliverSubject string `json:"deliver_subject"`
	}
	if err := ask(ctx, nc, "STREAM.RESTORE."+name, question, snapshotStall, &begun); err != nil {
		return SnapshotState{}, err
	}
	blocks := newReblocker(r)
	for {
		block, err := blocks.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = sendChunk(ctx, nc, begun.DeliverSubject, block, snapshotStall, nil)
		}
		if err != nil {
			return SnapshotState{}, err
		}
	}
	var made struct {
		State SnapshotState `json:"state"`
	}
	// The end: the server answers when the stream is there, which may take as long as it reads it.
	err := sendChunk(ctx, nc, begun.DeliverSubject, nil, time.Hour, &made)
	return made.State, err
}

// reblocker cuts a stream of S2 anew, into blocks of restoreBlock.
type reblocker struct {
	plain io.Reader
	buf   [restoreBlock]byte
	out   bytes.Buffer
	enc   *s2.Writer
}

func newReblocker(r io.Reader) *reblocker {
	b := &reblocker{plain: s2.NewReader(r)}
	b.enc = s2.NewWriter(&b.out, s2.WriterConcurrency(1), s2.WriterBlockSize(restoreBlock))
	return b
}

// next returns the next block, which is good until the call after, or io.EOF.
func (b *reblocker) next() ([]byte, error) {
	n, err := io.ReadFull(b.plain, b.buf[:])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	b.out.Reset()
	_, err = b.enc.Write(b.buf[:n])
	err = errors.Join(err, b.enc.Flush())
	return b.out.Bytes(), err
}

// ask sends a request to the API of JetStream.
func ask(ctx context.Context, nc *nats.Conn, subject string, question any, timeout time.Duration, answer any) error {
	data, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return sendChunk(ctx, nc, jetstream.DefaultAPIPrefix+subject, data, timeout, answer)
}

// sendChunk sends a request and reads its answer, which is empty when there is nothing to say.
func sendChunk(ctx context.Context, nc *nats.Conn, subject string, data []byte, timeout time.Duration, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, subject, data)
	if err != nil || len(reply.Data) == 0 {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &failed); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(reply.Data, answer)
}
