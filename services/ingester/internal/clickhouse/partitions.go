package clickhouse

import (
	"context"
	"fmt"
)

// PartitionsThere returns, in ascending order, the partitions of the stream that have rows in the table. The error is classified as that of Insert.
func (s *Store) PartitionsThere(ctx context.Context) ([]int, error) {
	var rows []struct {
		Partition uint16 `ch:"partition"`
	}
	if err := s.queries.Select(ctx, &rows, "SELECT DISTINCT partition FROM "+quote(s.table)+" ORDER BY partition"); err != nil {
		return nil, fmt.Errorf("look which partitions have rows: %w", classify(err))
	}
	out := make([]int, len(rows))
	for i, r := range rows {
		out[i] = int(r.Partition)
	}
	return out, nil
}
