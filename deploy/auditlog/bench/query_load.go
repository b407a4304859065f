package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// Shape of the log that queries are measured on: one tenant has most of it, the others share the rest unevenly.
const (
	loadTenants    = 200
	loadPartitions = 16
	loadChunk      = 250_000
	loadSpan       = 330 * 24 * time.Hour
	loadShare      = 0.8 // of loadTenant
	// rareEvents is about how many events the rare actor has, in any size of log.
	rareEvents    = 30
	mergePatience = 10 * time.Minute
)

// loadTenant is the tenant with 80 % of the events.
var loadTenant = loadTenantID(0)

func loadTenantID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}

// loadSQL inserts count events from number first on, of total, the last of them just before end. Values are skewed: the commonest of 20,000 actors has
// 3.7 % of a tenant's events, the commonest of 60 actions a quarter, a resource about ten. A type belongs to an action, so that most pairs of
// the two never meet. One event in a hundred comes up to ten days late.
const loadSQL = `
INSERT INTO event_log (partition, tenant_id, created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq)
WITH
	rand64(1) AS r1, rand64(2) AS r2, rand64(3) AS r3, rand64(4) AS r4,
	[%[1]s] AS tenants, [%[2]s] AS partitions,
	r1 %% 1000 < 800 ? 1 : 2 + toUInt32(pow((r1 %% 9973) / 9973, 3) * %[3]d) AS tenant,
	toUInt32(pow((r2 %% 1000003) / 1000003, 3) * 20000) AS actor,
	toUInt32(pow((r3 %% 100003) / 100003, 3) * 60) AS act,
	['invoice', 'payment', 'session', 'shipment', 'user', 'report'] AS types,
	fromUnixTimestamp64Micro(toInt64(%[4]d + (%[5]d + number) * %[6]d + r4 %% 1000000), 'UTC') AS taken,
	if(r4 %% 100 = 3, taken - toIntervalSecond(r3 %% 864000), taken) AS at
SELECT
	partitions[tenant], tenants[tenant], at, generateUUIDv4(),
	number %% %[7]d = 7 ? 'rare_actor' : concat('user_', leftPad(toString(actor), 5, '0')),
	['user', 'service', 'agent', 'api_key', 'system'][1 + act %% 5], concat(types[1 + act %% 6], '.', toString(act)),
	types[1 + act %% 6], concat('res_', toString(r3 %% %[8]d)),
	concat('{"ip":"198.51.100.', toString(r4 %% 250), '","request_id":"req_', lower(hex(r1)), '","site":"', ['Oslo', 'Halden', 'Hamburg'][1 + r4 %% 3],
		'","amount":{"value":"', toString(r2 %% 40000), '.', toString(r3 %% 100), '","currency":"EUR"}}'),
	act %% 5 = 2 ? concat('Within the delegated limit; ', toString(r4 %% 100), ' %% of comparable cases were approved by a person.') : NULL,
	taken, %[5]d + number + 1
FROM numbers(%[9]d)
SETTINGS max_partitions_per_insert_block = 0`

// load fills event_log with total events in the order of their arrival, as an ingester would, in large blocks.
func load(ctx context.Context, e *engines, total int) error {
	tenants := make([]string, loadTenants+1)
	partitions := make([]string, len(tenants))
	for i := range tenants {
		id := loadTenantID(i)
		tenants[i], partitions[i] = fmt.Sprintf("toUUID('%s')", id), fmt.Sprint(events.Partition(id, loadPartitions))
	}
	step := max(loadSpan.Microseconds()/int64(total), 1)
	start := time.Now().Add(-loadSpan - 2*time.Second).UnixMicro()
	for first := 0; first < total; first += loadChunk {
		count := min(loadChunk, total-first)
		sql := fmt.Sprintf(loadSQL, strings.Join(tenants, ","), strings.Join(partitions, ","), loadTenants-1, start, first, step,
			max(total/rareEvents, 8), max(total/12, 1), count)
		if _, err := e.query(ctx, sql); err != nil {
			return fmt.Errorf("load events from number %d: %w", first, err)
		}
	}
	return nil
}

// settleMerges waits until nothing has been merged for some seconds.
func settleMerges(ctx context.Context, e *engines) error {
	ctx, cancel := context.WithTimeout(ctx, mergePatience)
	defer cancel()
	for quiet := 0; quiet < 3; {
		running, err := e.query(ctx, "SELECT count() FROM system.merges")
		if err != nil {
			return fmt.Errorf("wait for merges: %w", err)
		}
		if quiet++; running != "0" {
			quiet = 0
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for merges: %w", ctx.Err())
		case <-time.After(time.Second):
		}
	}
	return nil
}

// reportStorage prints what an event takes on disk, and returns it.
func reportStorage(ctx context.Context, e *engines, when string) (bytes float64, err error) {
	text, err := e.query(ctx, `SELECT round(sum(bytes_on_disk) / sum(rows), 2), format('{} rows in {} parts; bytes an event: {} on disk, of which {} indexes; {} raw',
		sum(rows), count(), round(sum(bytes_on_disk) / sum(rows), 1), round(sum(secondary_indices_compressed_bytes) / sum(rows), 1),
		round(sum(data_uncompressed_bytes) / sum(rows)))
		FROM system.parts WHERE active AND database = 'audit' AND table = 'event_log'`)
	if err != nil {
		return 0, err
	}
	number, text, _ := strings.Cut(text, "\t")
	fmt.Printf("  %s: %s\n", when, text)
	return strconv.ParseFloat(number, 64)
}
