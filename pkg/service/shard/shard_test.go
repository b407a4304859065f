package shard_test

import (
	"strings"
	"testing"

	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/pkg/service/shard"
)

func parse(text string) (shard.Shard, error) {
	r := settings.New(func(name string) string {
		if name == "AUDIT_SHARD" {
			return text
		}
		return ""
	})
	s := shard.FromSettings(r)
	return s, r.Err()
}

func TestFromSettings(t *testing.T) {
	for text, want := range map[string]string{"": "1/1", "1/1": "1/1", "2/3": "2/3", "256/256": "256/256"} {
		if s, err := parse(text); err != nil || s.String() != want {
			t.Errorf("%q: %s, %v", text, s, err)
		}
	}
	for _, text := range []string{"0/2", "3/2", "1", "1/", "/2", "1/0", "-1/2", "1/257", "1/2/3", "a/b"} {
		if _, err := parse(text); err == nil || !strings.HasPrefix(err.Error(), "AUDIT_SHARD:") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Ensure every partition is on exactly one shard.
func TestPartitions(t *testing.T) {
	for _, shards := range []int{0, 1, 2, 3, 16} {
		seen := map[int]int{}
		for i := range max(shards, 1) {
			for _, p := range (shard.Shard{Index: i, Of: shards}).Partitions(16) {
				seen[p]++
				if got := shard.Of(p, max(shards, 1)); got != i {
					t.Errorf("partition %d of %d shards: %d and %d", p, shards, i, got)
				}
			}
		}
		for p := range 16 {
			if seen[p] != 1 {
				t.Errorf("%d shards: partition %d is on %d of them", shards, p, seen[p])
			}
		}
	}
}
