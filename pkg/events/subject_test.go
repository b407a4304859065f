package events

import (
	"errors"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestSubjects(t *testing.T) {
	const text = "01937b7e-0000-7000-8000-0000000000aa"
	for got, want := range map[string]string{
		Subject(testTenant): "audit.events." + text, LogSubject(15, testTenant): "audit.log.15." + text,
		DLQSubject(testTenant): "audit.dlq." + text, LedgerSubject(3): "audit.ledger.3",
	} {
		if got != want {
			t.Errorf("subject %s, want %s", got, want)
		}
	}
}

func TestParseLogSubject(t *testing.T) {
	const text = "01937b7e-0000-7000-8000-0000000000aa"
	for _, p := range []int{0, 7, 15, 65535} {
		partition, tenant, err := ParseLogSubject(LogSubject(p, testTenant))
		if err != nil || partition != p || tenant != testTenant {
			t.Errorf("partition %d: %d, %s, %v", p, partition, tenant, err)
		}
	}
	for _, subject := range []string{
		"", "audit.log.", "audit.log.1", "audit.log.1.", "audit.log.." + text, "audit.log." + text, "audit.events." + text, "audit.log.1." + strings.ToUpper(text),
		"audit.log.01." + text, "audit.log.-1." + text, "audit.log.+1." + text, "audit.log.x." + text, "audit.log.65536." + text,
		"audit.log.99999999999999999999." + text, "audit.log.1." + text + ".x", "audit.log.1.x." + text, "audit.log.1." + text[:35], "audit.log.1.{" + text + "}",
		"audit.log.1." + strings.ReplaceAll(text, "-", ""), "Audit.log.1." + text, "audit.log.1." + text[:35] + "g",
	} {
		if _, _, err := ParseLogSubject(subject); !errors.Is(err, ErrLogSubject) {
			t.Errorf("%q: %v, want ErrLogSubject", subject, err)
		}
	}
	subject := LogSubject(12, testTenant)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = ParseLogSubject(subject) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPartition(t *testing.T) {
	// Fixed for ever: another value would look for a tenant's events in the wrong place.
	for text, want := range map[string]int{
		"00000000-0000-0000-0000-000000000000": 1,
		"01937b7e-0000-7000-8000-0000000000aa": 14,
		"ffffffff-ffff-ffff-ffff-ffffffffffff": 1,
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8": 0,
		"ABCDEF01-2345-6789-abcd-ef0123456789": 9,
	} {
		if got := Partition(uuid.MustParse(text), 16); got != want {
			t.Errorf("%s: partition %d, want %d", text, got, want)
		}
	}
	used := map[int]bool{}
	for range 1000 {
		tenant := uuid.New()
		h := fnv.New32a()
		_, _ = h.Write([]byte(tenant.String()))
		for _, n := range []int{1, 2, 3, 16, 65535} {
			if got, want := Partition(tenant, n), int(h.Sum32()%uint32(n)); got != want {
				t.Fatalf("%s of %d: partition %d, want %d", tenant, n, got, want)
			}
		}
		used[Partition(tenant, 16)] = true
	}
	if len(used) != 16 {
		t.Errorf("1000 tenants use %d of 16 partitions", len(used))
	}
}
