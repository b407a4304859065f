// Package pipeline carries events from the stream into the table, each exactly once.
//
// One driver for each partition this process drives gathers messages into batches and flushes them: verdicts, dead letters, ledger,
// insert, position. driver.flush is the story of one batch; a driver that starts, after a crash or in place of another process, tells
// the end of that story for every batch whose commit is not written down, through the same code.
//
// The package knows neither NATS nor ClickHouse: it says what it needs of them as interfaces, with what they must promise.
package pipeline

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Message is one message of the stream.
type Message struct {
	// Seq and Time are the stream's own.
	Seq  uint64
	Time time.Time
	// Subject is what the stream stores it under: audit.log.<partition>.<tenant>.
	Subject string
	Data    []byte
	// Behind is how many messages its reader had still before it when this one was sent.
	Behind uint64
	// Parent is the producer's span when it is sampled and traces go somewhere; nil for nearly all messages.
	Parent *trace.SpanContext
}

// About what things take in memory, in bytes: a message beside its payload, a row beside its texts.
const (
	messageOverhead = 256
	rowOverhead     = 80
)

func (m *Message) bytes() int { return len(m.Data) + messageOverhead }

// Source reads the stream.
type Source interface {
	// Read calls deliver with every message of the partitions in after whose sequence is above the given one, in the stream's order
	// within a partition, perhaps with messages of other partitions and older ones among them, perhaps from several goroutines. It
	// returns when deliver returns false, ctx is done, or the order cannot be kept any more; the caller then calls it again with where
	// it is. An error of class fatal means that no call can ever do better.
	Read(ctx context.Context, after map[int]uint64, deliver func(partition int, m Message) bool) error
	// Range calls fn with every message of the partition from first to last, in order, and fails with ErrGone when the stream no
	// longer goes back as far as first.
	Range(ctx context.Context, partition int, first, last uint64, fn func(Message) error) error
	// Origin returns the first sequence that this stream ever had; below it is what an earlier one, that is lost, may have had.
	Origin(ctx context.Context) (uint64, error)
	// Unread says what of the partitions in reading the Read that runs has not delivered yet, and what there is after the sequences of those in after.
	Unread(ctx context.Context, reading []int, after map[int]uint64) (Unread, error)
}

// Unread is messages of the stream that are not in memory yet.
type Unread struct {
	Messages uint64
	// Oldest is when the first of them came into the stream; zero when there is none.
	Oldest time.Time
}

// Ledger is where the borders of batches are written down. See package ledger for what its methods promise.
type Ledger interface {
	Last(ctx context.Context, partition int) (ledger.Record, error)
	Uncommitted(ctx context.Context, partition int) ([]ledger.Record, error)
	Append(ctx context.Context, e ledger.Entry) (ledger.Record, error)
}

// Positions keeps a hint of how far each partition is committed.
type Positions interface {
	Get(ctx context.Context, partition int) (ledger.Position, error)
	Put(ctx context.Context, partition int, pos ledger.Position) error
}

// DeadLetter is a message that cannot be a row.
type DeadLetter struct {
	Message
	// Reason is what the verdict was; Fields are the fields at fault.
	Reason string
	Fields []string
}

// DeadLetters keeps messages that cannot be rows. When Publish returns nil all of them survive a crash of this process and of the server;
// publishing one again, even after a restart, does not add a second copy.
type DeadLetters interface {
	Publish(ctx context.Context, letters []DeadLetter) error
}

// Block is rows of one partition and one year, in memory. A block has one owner at a time.
type Block interface {
	// Append copies ev, which may be reused afterwards.
	Append(partition int, tenant uuid.UUID, seq uint64, ingestedAt time.Time, ev *events.Raw)
	Rows() int
	// Seqs are the rows' sequences. They are the block's own until it changes.
	Seqs() []uint64
	// Retain takes out the rows whose sequence is not in keep.
	Retain(keep map[uint64]struct{})
	// Reset empties the block and keeps its memory.
	Reset()
}

// Sink stores blocks durably.
type Sink interface {
	NewBlock() Block
	// Insert writes the block, whole or not at all. When it returns nil every row survives a crash of this process and of the server
	// (or was there before under the same token: a token that was sent before is no proof, see ReadBack). ErrInDoubt: it may have
	// been applied, or may still be running. ErrTransient: certainly not applied, and worth trying again. Any other error: certainly
	// not applied, and never will be.
	Insert(ctx context.Context, b Block, token string) error
	// Settle returns nil when no insert whose token begins with prefix runs any more.
	Settle(ctx context.Context, prefix string) error
	// ReadBack returns which sequences from first to last of the partition are in the table, created between the two times in
	// microseconds. A row that was folded into an older copy of the same event counts as missing.
	ReadBack(ctx context.Context, partition int, first, last uint64, minCreated, maxCreated int64) (map[uint64]struct{}, error)
	// LastSequence returns the highest sequence above after that the partition has in the table, 0 when there is none.
	LastSequence(ctx context.Context, partition int, after uint64) (uint64, error)
}

// Members says which partitions this process drives. It is about who should, not about who may: that is the ledger's.
type Members interface {
	// Wanted returns the partitions that are for this process to drive and that no other process still holds.
	Wanted() []int
	// Changed receives a value whenever Wanted may have changed.
	Changed() <-chan struct{}
	// Hold tells the others that this process drives the partition; Release that it has stopped.
	Hold(partition int)
	Release(partition int)
	// Valid says whether the others still count on this process: false once it could not reach them for so long that one of them may
	// have taken over.
	Valid() bool
}

// Step names a point of the flush, for tests that stop the process there.
type Step string

// The points, in order.
const (
	StepJudged   Step = "judged"   // verdicts are known, nothing is written
	StepBuried   Step = "buried"   // dead letters are published
	StepAppended Step = "appended" // the ledger has the borders
	StepBlock    Step = "block"    // one block (year) of the batch is inserted
	StepInserted Step = "inserted" // all blocks are inserted
	StepPosition Step = "position" // the position is handed over
)

// Limits of a pipeline.
const (
	// DefaultBatchMaxEvents bounds a batch. Far below ClickHouse's block limit of a million rows, so that a batch and year is one block.
	DefaultBatchMaxEvents = 20_000
	// DefaultBatchMaxBytes bounds the payload of a batch, again to keep it one block (256 MiB there).
	DefaultBatchMaxBytes = 8 << 20
	// DefaultMemory bounds the rows and dead letters in memory over all partitions, in bytes. Beyond it the stream is not read on.
	DefaultMemory = 64 << 20
	// DefaultFlushers is how many batches are flushed at the same time.
	DefaultFlushers = 4
	// DefaultLingerMin is how long the first event of a batch waits for company when there is little to do, DefaultLingerMax when there is much. An insert and
	// its share of the next merge cost as much CPU as some thousand rows: 16 partitions at half the wait take a fifth of a core more.
	DefaultLingerMin = 40 * time.Millisecond
	DefaultLingerMax = 2 * time.Second
	// DefaultLingerBehind is how long it waits at most while the reader is behind by several batches and there is memory to read on: waiting
	// makes large batches, and those are what catches up.
	DefaultLingerBehind = 10 * time.Second
	// DefaultInsertRate is how many batches a second, over all partitions, are cut before they are full or DefaultLingerMax old.
	DefaultInsertRate = 8
	// DefaultBackoffMin is the bound of the first pause after a fault.
	DefaultBackoffMin = 50 * time.Millisecond
	// DefaultDrain bounds how long the last batches may take when the process stops.
	DefaultDrain = 10 * time.Second
	// DefaultAppendMaxAge is how long after its ledger entry a batch may be inserted as if nothing could have happened in between.
	// Past it the process was paused, and another may have taken over: the batch is settled like any in doubt.
	DefaultAppendMaxAge = 3 * time.Second
)

// Config bounds a pipeline. The zero value of a field stands for its default.
type Config struct {
	BatchMaxEvents int
	BatchMaxBytes  int
	Memory         int
	Flushers       int
	LingerMin      time.Duration
	LingerMax      time.Duration
	LingerBehind   time.Duration
	InsertRate     float64
	Drain          time.Duration
	AppendMaxAge   time.Duration
	// BackoffMin is the bound of the first pause after a fault; it doubles up to half a minute.
	BackoffMin time.Duration
	// TokenPrefix stands before every insert token, so that two systems may share a ClickHouse.
	TokenPrefix string
	// Instance names this process in the ledger; it must be unique.
	Instance string
	// Hook, when set, is called at each Step of a flush, by tests.
	Hook func(partition int, step Step)
}

func (c *Config) setDefaults() {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	defDuration := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.BatchMaxEvents, DefaultBatchMaxEvents)
	def(&c.BatchMaxBytes, DefaultBatchMaxBytes)
	def(&c.Memory, DefaultMemory)
	def(&c.Flushers, DefaultFlushers)
	defDuration(&c.LingerMin, DefaultLingerMin)
	defDuration(&c.LingerMax, DefaultLingerMax)
	defDuration(&c.LingerBehind, DefaultLingerBehind)
	defDuration(&c.Drain, DefaultDrain)
	defDuration(&c.BackoffMin, DefaultBackoffMin)
	defDuration(&c.AppendMaxAge, DefaultAppendMaxAge)
	if c.InsertRate == 0 {
		c.InsertRate = DefaultInsertRate
	}
	if c.Hook == nil {
		c.Hook = func(int, Step) {}
	}
}
