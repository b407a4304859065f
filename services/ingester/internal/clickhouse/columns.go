package clickhouse

import (
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

// Rows is how many rows were appended since the last Reset.
func (c *Columns) Rows() int { return len(c.streamSeq) }

// Bytes is about what the block takes on the wire.
func (c *Columns) Bytes() int {
	n := c.Rows() * fixedRowBytes
	for _, t := range []*textColumn{&c.actorID, &c.resourceID, &c.metadata, &c.reasoning.values, &c.actorType.dict, &c.action.dict, &c.resourceType.dict} {
		n += len(t.wire)
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
