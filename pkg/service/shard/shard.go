// Package shard says which of several ClickHouse servers, or groups of replicas, holds the rows of a partition.
//
// A tenant lives in one partition and a partition on one shard, so what is about one tenant concerns one shard alone.
package shard

import (
	"fmt"
	"strconv"
	"strings"

	"example.com/auditlog/pkg/service/settings"
)

// Max bounds the number of shards.
const Max = 256

// Of is the shard of a partition, counted from 0, when there are so many.
func Of(partition, shards int) int { return partition % shards }

// Shard is one of several. The zero value is the only one there is.
type Shard struct {
	// Index is its number, from 0.
	Index int
	// Of is how many there are; 0 counts as 1.
	Of int
}

// Has says whether the partition's rows are on this shard.
func (s Shard) Has(partition int) bool { return Of(partition, max(s.Of, 1)) == s.Index }

// Partitions are those of the shard, of a stream that has so many.
func (s Shard) Partitions(all int) []int {
	var own []int
	for p := range all {
		if s.Has(p) {
			own = append(own, p)
		}
	}
	return own
}

// Alone says whether there is no other shard.
func (s Shard) Alone() bool { return s.Of <= 1 }

// String is the form of the setting, counted from 1: 1/2 is the first of two.
func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Index+1, max(s.Of, 1)) }

// FromSettings reads AUDIT_SHARD.
func FromSettings(r *settings.Reader) Shard {
	text := r.String("AUDIT_SHARD", "1/1")
	index, of, _ := strings.Cut(text, "/")
	i, err1 := strconv.Atoi(index)
	n, err2 := strconv.Atoi(of)
	if err1 != nil || err2 != nil || n < 1 || n > Max || i < 1 || i > n {
		r.Faultf("AUDIT_SHARD", "%q must be which one of how many, such as 1/2 for the first of two, at most %d", text, Max)
		return Shard{}
	}
	return Shard{Index: i - 1, Of: n}
}
