package clickhouse

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"example.com/auditlog/services/ingester/internal/erasure"
)

// MaxErased keeps a statement that has people within ClickHouse's max_query_size of 256 KiB.
const MaxErased = 400

// textsQuerySize bounds a statement that has texts: those of one, escaped, and their sequences.
const textsQuerySize = 64 << 20

// Erasure is people of one tenant who are to be replaced in a partition. All have the same salt and resource types. No clear name goes to the server: it
// compares hashes, for statements are written down there.
type Erasure struct {
	Partition int
	Tenant    uuid.UUID
	Salt      []byte
	// People are at most MaxErased.
	People        []erasure.Person
	ResourceTypes []string
}

// hash is SQL of erasure.Hash of a column.
func (e Erasure) hash(column string) string {
	return fmt.Sprintf("hex(SHA256(concat(unhex('%s'), %s)))", hex.EncodeToString(e.Salt), column)
}

// list is SQL of a text for each person, without brackets.
func (e Erasure) list(text func(erasure.Person) string) string {
	out := make([]string, len(e.People))
	for i, p := range e.People {
		out[i] = literal(text(p))
	}
	return strings.Join(out, ", ")
}

func hashOf(p erasure.Person) string      { return strings.ToUpper(hex.EncodeToString(p.Hash[:])) }
func pseudonymOf(p erasure.Person) string { return p.Pseudonym }

func (e Erasure) types() string {
	out := make([]string, len(e.ResourceTypes))
	for i, t := range e.ResourceTypes {
		out[i] = literal(t)
	}
	return strings.Join(out, ", ")
}

func (e Erasure) tenant() string {
	return fmt.Sprintf("partition = %d AND tenant_id = toUUID('%s')", e.Partition, e.Tenant)
}

// clear is the condition that a row has a clear name.
func (e Erasure) clear() string {
	hashes := e.list(hashOf)
	where := e.hash("actor_id") + " IN (" + hashes + ")"
	if len(e.ResourceTypes) > 0 {
		where += fmt.Sprintf(" OR resource_type IN (%s) AND %s IN (%s)", e.types(), e.hash("resource_id"), hashes)
	}
	return "(" + where + ")"
}

// replaced is the condition that a row has a pseudonym.
func (e Erasure) replaced() string {
	pseudonyms := e.list(pseudonymOf)
	where := "actor_id IN (" + pseudonyms + ")"
	if len(e.ResourceTypes) > 0 {
		where += fmt.Sprintf(" OR resource_type IN (%s) AND resource_id IN (%s)", e.types(), pseudonyms)
	}
	return "(" + where + ")"
}

// ErasedYear is how many rows of a year have a clear name.
type ErasedYear struct {
	Year uint16 `ch:"year"`
	Rows uint64 `ch:"rows"`
}

// ErasedYears returns, in order, the years in which rows have a clear name. The errors of this and the methods below are classified as that of Insert.
func (s *Store) ErasedYears(ctx context.Context, e Erasure) (out []ErasedYear, err error) {
	err = s.queries.Select(ctx, &out, fmt.Sprintf(`SELECT toYear(created_at) AS year, count() AS rows FROM %s WHERE %s AND %s GROUP BY year ORDER BY year
		SETTINGS select_sequential_consistency = 1, max_execution_time = 0`, quote(s.table), e.tenant(), e.clear()))
	if err != nil {
		return nil, fmt.Errorf("look for rows of people who are erased in partition %d: %w", e.Partition, classify(err))
	}
	return out, nil
}

// ErasedText is the metadata of a row of somebody who is erased, by name or by pseudonym.
type ErasedText struct {
	Seq      uint64 `ch:"stream_seq"`
	Year     uint16 `ch:"year"`
	Clear    bool   `ch:"clear"`
	Metadata string `ch:"metadata"`
}

// ErasedTexts calls fn with each such row, in no order.
func (s *Store) ErasedTexts(ctx context.Context, e Erasure, fn func(ErasedText) error) error {
	rows, err := s.queries.Query(ctx, fmt.Sprintf(`SELECT stream_seq, toYear(created_at) AS year, %[1]s AS clear, metadata FROM %[2]s WHERE %[3]s AND (%[1]s OR %[4]s)
		SETTINGS select_sequential_consistency = 1, max_execution_time = 0`, e.clear(), quote(s.table), e.tenant(), e.replaced()))
	if err != nil {
		return fmt.Errorf("read metadata of people who are erased in partition %d: %w", e.Partition, classify(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var t ErasedText
		if err := rows.ScanStruct(&t); err != nil {
			return fmt.Errorf("read metadata of people who are erased in partition %d: %w", e.Partition, err)
		}
		if err := fn(t); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read metadata of people who are erased in partition %d: %w", e.Partition, classify(err))
	}
	return nil
}

// SetMetadata gives rows of a year other metadata, by their sequences. It may be done again.
func (s *Store) SetMetadata(ctx context.Context, e Erasure, year uint16, texts map[uint64]string) error {
	seqs, metadata := make([]string, 0, len(texts)), make([]string, 0, len(texts))
	for seq, text := range texts {
		seqs, metadata = append(seqs, fmt.Sprintf("toUInt64(%d)", seq)), append(metadata, literal(text))
	}
	list := strings.Join(seqs, ", ")
	// What is left of the metadata is nothing for the log of queries.
	ctx = chgo.Context(ctx, chgo.WithSettings(chgo.Settings{"max_query_size": textsQuerySize, "log_queries": 0, "mutations_sync": 2}))
	return s.steps(ctx, fmt.Sprintf("erase metadata of %d in partition %d", year, e.Partition), fmt.Sprintf(
		"ALTER TABLE %s UPDATE metadata = transform(stream_seq, [%s], [%s], metadata) IN PARTITION (%d, %d) WHERE %s AND stream_seq IN (%s)",
		quote(s.table), list, strings.Join(metadata, ", "), e.Partition, year, e.tenant(), list))
}

// ReplaceNames puts pseudonyms in place of the names in the rows of a year. Parts without such a row are not rewritten. It may be done again.
func (s *Store) ReplaceNames(ctx context.Context, e Erasure, year uint16) error {
	by := func(column string) string {
		return fmt.Sprintf("transform(%s, [%s], [%s], %s)", e.hash(column), e.list(hashOf), e.list(pseudonymOf), column)
	}
	set := "actor_id = " + by("actor_id")
	if len(e.ResourceTypes) > 0 {
		set += fmt.Sprintf(", resource_id = if(resource_type IN (%s), %s, resource_id)", e.types(), by("resource_id"))
	}
	return s.steps(ctx, fmt.Sprintf("erase names of %d in partition %d", year, e.Partition), fmt.Sprintf(
		"ALTER TABLE %s UPDATE %s IN PARTITION (%d, %d) WHERE %s AND %s SETTINGS mutations_sync = 2",
		quote(s.table), set, e.Partition, year, e.tenant(), e.clear()))
}

// ErasedHours returns the first and the last hour that has a count under a clear name; any is false when none has.
func (s *Store) ErasedHours(ctx context.Context, e Erasure) (from, to time.Time, any bool, err error) {
	var n uint64
	err = s.queries.QueryRow(ctx, fmt.Sprintf("SELECT count(), min(hour), max(hour) FROM %s WHERE %s AND %s IN (%s)",
		hoursTable, e.tenant(), e.hash("actor_id"), e.list(hashOf))).Scan(&n, &from, &to)
	if err != nil {
		return from, to, false, fmt.Errorf("look for counts of people who are erased in partition %d: %w", e.Partition, classify(err))
	}
	return from, to, n > 0, nil
}
