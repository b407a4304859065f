package clickhouse

import (
	"slices"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// Columns is one block of event_log rows, filled column by column and reused between batches. The zero value is ready; it must not be used by
// several goroutines at once, nor changed while it is being inserted.
type Columns struct {
	partition    proto.ColUInt16
	tenantID     proto.ColUUID
	createdAt    proto.ColDateTime64
	id           proto.ColUUID
	actorID      textColumn
	actorType    labelColumn
	action       labelColumn
	resourceType labelColumn
	resourceID   textColumn
	metadata     textColumn
	reasoning    nullableText
	ingestedAt   proto.ColDateTime64
	streamSeq    proto.ColUInt64
}

// fixedRowBytes is what a row takes beside its texts.
const fixedRowBytes = 2 + 16 + 8 + 16 + 3 + 1 + 8 + 8

// Append adds one row, copying the bytes of ev. ingestedAt is the stream's own time of the message, seq its sequence there.
func (c *Columns) Append(partition int, tenant uuid.UUID, seq uint64, ingestedAt time.Time, ev *events.Raw) {
	if len(c.streamSeq) == cap(c.streamSeq) {
		c.grow()
	}
	c.partition = append(c.partition, uint16(partition))
	c.tenantID = append(c.tenantID, tenant)
	c.createdAt.Data = append(c.createdAt.Data, proto.DateTime64(ev.CreatedAt))
	c.id = append(c.id, ev.ID)
	c.actorID.append(ev.ActorID)
	c.actorType.append(ev.ActorType)
	c.action.append(ev.Action)
	c.resourceType.append(ev.ResourceType)
	c.resourceID.append(ev.ResourceID)
	c.metadata.append(ev.Metadata)
	c.reasoning.append(ev.Reasoning, ev.HasReasoning)
	c.ingestedAt.Data = append(c.ingestedAt.Data, proto.DateTime64(ingestedAt.UnixMicro()))
	c.streamSeq = append(c.streamSeq, seq)
}

// minRows is the room of a block that has just been made.
const minRows = 64

// grow makes room for as many rows again: append alone grows long slices by a quarter, and would copy each row several times.
func (c *Columns) grow() {
	n := max(len(c.streamSeq), minRows)
	c.partition = slices.Grow(c.partition, n)
	c.tenantID = slices.Grow(c.tenantID, n)
	c.createdAt.Data = slices.Grow(c.createdAt.Data, n)
	c.id = slices.Grow(c.id, n)
	for _, l := range []*labelColumn{&c.actorType, &c.action, &c.resourceType} {
		l.keys = slices.Grow(l.keys, n)
	}
	c.reasoning.nulls = slices.Grow(c.reasoning.nulls, n)
	c.ingestedAt.Data = slices.Grow(c.ingestedAt.Data, n)
	c.streamSeq = slices.Grow(c.streamSeq, n)
}

// Rows is how many rows were appended since the last Reset.
func (c *Columns) Rows() int { return len(c.streamSeq) }

// Seqs are the rows' sequences. They are the block's own until it changes.
func (c *Columns) Seqs() []uint64 { return c.streamSeq }

// Retain takes out the rows whose sequence is not in keep.
func (c *Columns) Retain(keep map[uint64]struct{}) {
	kept := make([]bool, len(c.streamSeq))
	for i, seq := range c.streamSeq {
		_, kept[i] = keep[seq]
	}
	for _, t := range []*textColumn{&c.actorID, &c.resourceID, &c.metadata} {
		t.retain(kept)
	}
	for _, l := range []*labelColumn{&c.actorType, &c.action, &c.resourceType} {
		l.keys = retain(l.keys, kept)
	}
	c.reasoning.nulls = retain(c.reasoning.nulls, kept)
	c.reasoning.values.retain(kept)
	c.partition = retain(c.partition, kept)
	c.tenantID = retain(c.tenantID, kept)
	c.createdAt.Data = retain(c.createdAt.Data, kept)
	c.id = retain(c.id, kept)
	c.ingestedAt.Data = retain(c.ingestedAt.Data, kept)
	c.streamSeq = retain(c.streamSeq, kept)
}

// retain moves the values of the rows that are kept together.
func retain[S ~[]E, E any](values S, kept []bool) S {
	out := values[:0]
	for i, v := range values {
		if kept[i] {
			out = append(out, v)
		}
	}
	return out
}

// Bytes is about what the block takes on the wire.
func (c *Columns) Bytes() int {
	n := c.Rows() * fixedRowBytes
	for _, t := range []*textColumn{&c.actorID, &c.resourceID, &c.metadata, &c.reasoning.values, &c.actorType.dict, &c.action.dict, &c.resourceType.dict} {
		n += t.bytes
	}
	return n
}

// Reset takes all rows out and keeps the memory.
func (c *Columns) Reset() {
	for _, t := range []*textColumn{&c.actorID, &c.resourceID, &c.metadata} {
		t.reset()
	}
	for _, l := range []*labelColumn{&c.actorType, &c.action, &c.resourceType} {
		l.reset()
	}
	c.reasoning.reset()
	c.partition.Reset()
	c.tenantID.Reset()
	c.createdAt.Reset()
	c.id.Reset()
	c.ingestedAt.Reset()
	c.streamSeq.Reset()
}

// input is the block with its columns' names. The types are the table's own, so that the server converts nothing.
func (c *Columns) input() proto.Input {
	for _, t := range []*proto.ColDateTime64{&c.createdAt, &c.ingestedAt} {
		t.WithPrecision(proto.PrecisionMicro).WithLocation(time.UTC)
	}
	return proto.Input{
		{Name: "partition", Data: &c.partition},
		{Name: "tenant_id", Data: &c.tenantID},
		{Name: "created_at", Data: &c.createdAt},
		{Name: "id", Data: &c.id},
		{Name: "actor_id", Data: &c.actorID},
		{Name: "actor_type", Data: &c.actorType},
		{Name: "action", Data: &c.action},
		{Name: "resource_type", Data: &c.resourceType},
		{Name: "resource_id", Data: &c.resourceID},
		{Name: "metadata", Data: &c.metadata},
		{Name: "reasoning", Data: &c.reasoning},
		{Name: "ingested_at", Data: &c.ingestedAt},
		{Name: "stream_seq", Data: &c.streamSeq},
	}
}
