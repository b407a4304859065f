package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// insertBlockRows is how many rows a block of the bare insert has at most.
const insertBlockRows = 50_000

// bareInsert writes the backlog's rows, decoded beforehand, into a table like the real one: the most that writing can reach
// on one connection, a partition's rows at a time.
func bareInsert(ctx context.Context, e *engines, backlog []event) (took time.Duration, err error) {
	if _, err := e.query(ctx, "CREATE TABLE bench_log AS event_log"); err != nil {
		return 0, err
	}
	conn, err := ch.Dial(ctx, ch.Options{Address: fmt.Sprintf("127.0.0.1:%d", e.nativePort), Database: "audit", Compression: ch.CompressionDisabled})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	blocks, err := makeBlocks(backlog)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for _, b := range blocks {
		input := b.input()
		if err := conn.Do(ctx, ch.Query{Body: input.Into("bench_log"), Input: input}); err != nil {
			return 0, err
		}
	}
	took = time.Since(began)
	_, err = e.query(ctx, "DROP TABLE bench_log SYNC")
	return took, err
}

// block is the columns of some rows, ready to be sent.
type block struct {
	partition                   proto.ColUInt16
	tenant, id                  proto.ColUUID
	created, ingested           *proto.ColDateTime64
	actorID, resource, metadata proto.ColStr
	actorType, action, kind     *proto.ColLowCardinality[string]
	reasoning                   *proto.ColNullable[string]
	seq                         proto.ColUInt64
}

func newBlock() *block {
	text := func() *proto.ColLowCardinality[string] { return new(proto.ColStr).LowCardinality() }
	stamp := func() *proto.ColDateTime64 { return new(proto.ColDateTime64).WithPrecision(proto.PrecisionMicro) }
	return &block{created: stamp(), ingested: stamp(), actorType: text(), action: text(), kind: text(), reasoning: new(proto.ColStr).Nullable()}
}

func (b *block) input() proto.Input {
	return proto.Input{
		{Name: "partition", Data: &b.partition}, {Name: "tenant_id", Data: &b.tenant}, {Name: "id", Data: &b.id},
		{Name: "created_at", Data: b.created}, {Name: "ingested_at", Data: b.ingested}, {Name: "actor_id", Data: &b.actorID},
		{Name: "actor_type", Data: b.actorType}, {Name: "action", Data: b.action}, {Name: "resource_type", Data: b.kind},
		{Name: "resource_id", Data: &b.resource}, {Name: "metadata", Data: &b.metadata}, {Name: "reasoning", Data: b.reasoning},
		{Name: "stream_seq", Data: &b.seq},
	}
}

func makeBlocks(backlog []event) ([]*block, error) {
	var blocks []*block
	open := map[int]*block{}
	var dec events.Decoder
	var raw events.Raw
	now := time.Now()
	for i, ev := range backlog {
		if err := dec.Decode(ev.wire, ev.tenant, now, &raw); err != nil {
			return nil, err
		}
		p := events.Partition(ev.tenant, 16)
		b := open[p]
		if b == nil || b.partition.Rows() == insertBlockRows {
			b = newBlock()
			open[p] = b
			blocks = append(blocks, b)
		}
		b.append(p, ev.tenant, uint64(i+1), now, &raw)
	}
	return blocks, nil
}

func (b *block) append(p int, tenant uuid.UUID, seq uint64, now time.Time, raw *events.Raw) {
	b.partition.Append(uint16(p))
	b.tenant.Append(tenant)
	b.id.Append(raw.ID)
	b.created.AppendRaw(proto.DateTime64(raw.CreatedAt))
	b.ingested.Append(now)
	b.actorID.AppendBytes(raw.ActorID)
	b.actorType.Append(string(raw.ActorType))
	b.action.Append(string(raw.Action))
	b.kind.Append(string(raw.ResourceType))
	b.resource.AppendBytes(raw.ResourceID)
	b.metadata.AppendBytes(raw.Metadata)
	if raw.HasReasoning {
		b.reasoning.Append(proto.NewNullable(string(raw.Reasoning)))
	} else {
		b.reasoning.Append(proto.Null[string]())
	}
	b.seq.Append(seq)
}
