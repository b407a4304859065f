package lease

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Ensure every partition has one member, nobody has two more than another, and that a member that comes or goes moves few partitions of others.
func TestAssignProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		partitions := rapid.IntRange(1, 64).Draw(t, "partitions")
		members := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}`), 1, 12, rapid.ID).Draw(t, "members")
		slices.Sort(members)
		count := map[string]int{}
		for _, m := range Assign(members, partitions) {
			count[m]++
		}
		least, most := partitions, 0
		for _, m := range members {
			least, most = min(least, count[m]), max(most, count[m])
			delete(count, m)
		}
		if len(count) != 0 || most-least > 1 {
			t.Fatalf("from %d to %d partitions each, %d for strangers", least, most, len(count))
		}
	})
}

// Ensure a third member takes its share and little else moves.
func TestAssignSticks(t *testing.T) {
	moved, total := 0, 0
	for i := range 50 {
		two := []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}
		before, after := Assign(two, 16), Assign(append(two, fmt.Sprint("c", i)), 16)
		for p := range before {
			total++
			if before[p] != after[p] {
				moved++
			}
		}
	}
	if share := float64(moved) / float64(total); share > 0.55 {
		t.Errorf("%.2f of the partitions moved, 0.33 had to", share)
	}
}

func TestAssignNobody(t *testing.T) {
	for p, m := range Assign(nil, 4) {
		if m != "" {
			t.Errorf("partition %d has %q", p, m)
		}
	}
}
