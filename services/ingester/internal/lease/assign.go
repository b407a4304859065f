package lease

import "hash/fnv"

// Assign spreads the partitions over the members: nobody has more than one more than another, everybody computes the same, and when a member
// comes or goes few partitions move beside its own. members must be sorted; the result says for each partition whose it is, "" without members.
func Assign(members []string, partitions int) []string {
	out := make([]string, partitions)
	if len(members) == 0 {
		return out
	}
	load := make(map[string]int, len(members))
	most, spare := partitions/len(members), partitions%len(members)
	for p := range out {
		best, bestWeight := "", uint64(0)
		for _, m := range members {
			// spare members take one more than the others.
			if load[m] > most || (load[m] == most && spare == 0) {
				continue
			}
			if w := weight(m, p); best == "" || w > bestWeight {
				best, bestWeight = m, w
			}
		}
		if load[best]++; load[best] == most+1 {
			spare--
		}
		out[p] = best
	}
	return out
}

// weight is how much the member wants the partition.
func weight(member string, partition int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(partition >> 8), byte(partition)})
	_, _ = h.Write([]byte(member))
	x := h.Sum64()
	// FNV leaves the high bits of short texts alike; a finalizer spreads them.
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}
