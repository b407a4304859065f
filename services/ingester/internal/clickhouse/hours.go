package clickhouse

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
)

// maxHourTenants bounds the tenants that are counted by name; where there are more, all of the partition are.
const maxHourTenants = 1000

// Hours is a stretch of whole hours of one partition.
type Hours struct {
	From time.Time `ch:"hour"`
	// To is the end, exclusive.
	To time.Time
	// Tenants are those to count; nil stands for all.
	Tenants []uuid.UUID `ch:"tenants"`
}

// where is the condition on a table's columns of tenant and time.
func (h Hours) where(partition int, column string) string {
	where := fmt.Sprintf("partition = %d AND %s >= toDateTime(%d, 'UTC') AND %s < toDateTime(%d, 'UTC')",
		partition, column, h.From.Unix(), column, h.To.Unix())
	if h.Tenants == nil {
		return where
	}
	ids := make([]string, len(h.Tenants))
	for i, t := range h.Tenants {
		ids[i] = "toUUID('" + t.String() + "')"
	}
	return where + " AND tenant_id IN (" + strings.Join(ids, ", ") + ")"
}

// HoursProgress is how far a partition's events are counted by hours.
type HoursProgress struct {
	// Through is the last sequence up to which all are.
	Through uint64 `ch:"through"`
	// NextDay is the day that the round over all days looks at next.
	NextDay time.Time `ch:"next_day"`
}

// HoursProgress returns how far the partition is counted, the zero value when nothing is. The errors of this and the methods below are classified as that of Insert.
func (s *Store) HoursProgress(ctx context.Context, partition int) (p HoursProgress, err error) {
	err = s.queries.QueryRow(ctx, "SELECT argMax(through, at), argMax(next_day, at) FROM event_hours_progress WHERE partition = ?", uint16(partition)).Scan(&p.Through, &p.NextDay)
	if err != nil {
		return p, fmt.Errorf("read how far partition %d is counted: %w", partition, classify(err))
	}
	return p, nil
}

// SetHoursProgress notes how far the partition is counted.
func (s *Store) SetHoursProgress(ctx context.Context, partition int, p HoursProgress) error {
	return s.steps(ctx, fmt.Sprintf("note how far partition %d is counted", partition), fmt.Sprintf(
		"INSERT INTO event_hours_progress (partition, through, next_day, at) SETTINGS async_insert = 0, insert_deduplicate = 0 SELECT %d, %d, toDate('%s'), now64(6)",
		partition, p.Through, p.NextDay.Format(time.DateOnly)))
}

// HoursOf returns the hours that the events of the partition between two sequences (the first exclusive) are of, each with its tenants, in order.
func (s *Store) HoursOf(ctx context.Context, partition int, after, through uint64) ([]Hours, error) {
	var hours []Hours
	err := s.queries.Select(ctx, &hours, fmt.Sprintf(`SELECT toStartOfHour(created_at) AS hour, groupUniqArray(%d)(tenant_id) AS tenants
		FROM %s WHERE partition = ? AND stream_seq > ? AND stream_seq <= ? GROUP BY hour ORDER BY hour`, maxHourTenants+1, quote(s.table)),
		uint16(partition), after, through)
	if err != nil {
		return nil, fmt.Errorf("look for hours to count of partition %d: %w", partition, classify(err))
	}
	for i := range hours {
		hours[i].To = hours[i].From.Add(time.Hour)
		if len(hours[i].Tenants) > maxHourTenants {
			hours[i].Tenants = nil
		}
	}
	return hours, nil
}

// NextSequence returns the lowest sequence of the partition after one, 0 when there is none.
func (s *Store) NextSequence(ctx context.Context, partition int, after uint64) (next uint64, err error) {
	err = s.queries.QueryRow(ctx, "SELECT min(stream_seq) FROM "+quote(s.table)+" WHERE partition = ? AND stream_seq > ?", uint16(partition), after).Scan(&next)
	if err != nil {
		return 0, fmt.Errorf("look for the next sequence of partition %d: %w", partition, classify(err))
	}
	return next, nil
}

// CountHours counts the events of the hours anew and returns how many counts were not right. It writes those alone, so it may be done again at any time
// and beside itself: of two that count the same, the later one's numbers stay.
func (s *Store) CountHours(ctx context.Context, partition int, h Hours) (changed uint64, err error) {
	ctx = chgo.Context(ctx, chgo.WithProgress(func(p *chgo.Progress) { changed += p.WroteRows }))
	err = s.queries.Exec(ctx, fmt.Sprintf(`INSERT INTO event_hours (partition, tenant_id, hour, actor_id, action, events, counted_at)
		SETTINGS async_insert = 0, insert_deduplicate = 0, max_partitions_per_insert_block = 0, do_not_merge_across_partitions_select_final = 1,
			max_threads = 1, max_bytes_before_external_group_by = 500000000
		SELECT %d, tenant_id, hour, actor_id, action, sum(is) AS events, greatest(now64(6), max(before) + toIntervalMicrosecond(1)) AS counted_at
		FROM (
			SELECT tenant_id, toStartOfHour(created_at)::DateTime('UTC') AS hour, actor_id, action, count() AS is, 0::UInt64 AS was, toDateTime64(0, 6, 'UTC') AS before
			FROM %s FINAL WHERE %s GROUP BY tenant_id, hour, actor_id, action
			UNION ALL
			SELECT tenant_id, hour, actor_id, action, 0, events, counted_at FROM event_hours FINAL WHERE %s
		)
		GROUP BY tenant_id, hour, actor_id, action HAVING sum(is) != sum(was)`,
		partition, quote(s.table), h.where(partition, "created_at"), h.where(partition, "hour")))
	if err != nil {
		return changed, fmt.Errorf("count hours from %s of partition %d: %w", h.From.Format(time.RFC3339), partition, classify(err))
	}
	return changed, nil
}

// CountedDays returns the days that the partition, or one tenant of it, has events or counts of, in order. It reads a column of the whole partition.
func (s *Store) CountedDays(ctx context.Context, partition int, tenant *uuid.UUID) ([]time.Time, error) {
	where := fmt.Sprintf("partition = %d", partition)
	if tenant != nil {
		where += " AND tenant_id = toUUID('" + tenant.String() + "')"
	}
	var days []struct {
		Day time.Time `ch:"day"`
	}
	err := s.queries.Select(ctx, &days, fmt.Sprintf(`SELECT DISTINCT day FROM (
		SELECT toDate(created_at) AS day FROM %s WHERE %s GROUP BY day
		UNION ALL SELECT toDate(hour) AS day FROM event_hours WHERE %s GROUP BY day) ORDER BY day SETTINGS max_threads = 1`, quote(s.table), where, where))
	if err != nil {
		return nil, fmt.Errorf("look for days of partition %d: %w", partition, classify(err))
	}
	out := make([]time.Time, len(days))
	for i, d := range days {
		out[i] = d.Day
	}
	return out, nil
}

// DropEmptyHours deletes the counts that have been 0 for at least age, all that was ever counted under their keys with them: an actor whose events are
// gone leaves no name behind.
func (s *Store) DropEmptyHours(ctx context.Context, partition int, h Hours, age time.Duration) error {
	for {
		salt := rand.Text()
		keys, err := s.emptyHours(ctx, partition, h, age, salt)
		if err != nil || len(keys) == 0 {
			return err
		}
		// The keys are written out. A subquery would be asked again for each part, and find no 0 any more once the part that had it is done: the number
		// from before would come back. They have hashes for names: the server keeps its statements.
		err = s.steps(ctx, fmt.Sprintf("delete empty hours of partition %d", partition), fmt.Sprintf(
			"ALTER TABLE event_hours DELETE WHERE %s AND (tenant_id, hour, %s, counted_at) IN (%s) SETTINGS mutations_sync = 2",
			h.where(partition, "hour"), hourNames(salt), strings.Join(keys, ", ")))
		if err != nil || len(keys) < emptyHoursAtOnce {
			return err
		}
	}
}

// hourNames is SQL of a hash of action and actor. An action has no control characters.
func hourNames(salt string) string {
	return fmt.Sprintf("hex(SHA256(concat('%s', action, '\\n', actor_id)))", salt)
}

// emptyHoursAtOnce keeps a statement well within ClickHouse's max_query_size of 256 KiB.
const emptyHoursAtOnce = 500

// emptyHours returns, as SQL, the rows that belong to counts of 0.
func (s *Store) emptyHours(ctx context.Context, partition int, h Hours, age time.Duration, salt string) ([]string, error) {
	where := h.where(partition, "hour")
	var rows []struct {
		Row string `ch:"row"`
	}
	err := s.queries.Select(ctx, &rows, fmt.Sprintf(`SELECT format('(toUUID(\'{}\'), toDateTime({}, \'UTC\'), \'{}\', fromUnixTimestamp64Micro({}, \'UTC\'))',
			toString(tenant_id), toString(toUnixTimestamp(hour)), %s, toString(toUnixTimestamp64Micro(counted_at))) AS row
		FROM event_hours WHERE %s AND (tenant_id, hour, action, actor_id) IN (
			SELECT tenant_id, hour, action, actor_id FROM event_hours FINAL WHERE %s AND events = 0 AND counted_at <= now64(6) - toIntervalSecond(%d))
		ORDER BY counted_at LIMIT %d`, hourNames(salt), where, where, int(age.Seconds()), emptyHoursAtOnce))
	if err != nil {
		return nil, fmt.Errorf("look for empty hours of partition %d: %w", partition, classify(err))
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = r.Row
	}
	return out, nil
}
