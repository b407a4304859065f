package app

import (
	"testing"
	"time"
)

// Ensure what an operator sets reaches the pipeline.
func TestConfigOfPipeline(t *testing.T) {
	env := map[string]string{"AUDIT_BATCH_MAX_EVENTS": "11", "AUDIT_BATCH_MAX_BYTES": "2048", "AUDIT_BATCH_MAX_WAIT": "7s", "AUDIT_MEMORY_BYTES": "3000000", "AUDIT_FLUSHERS": "5"}
	c, err := ConfigFromEnv(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	p := c.pipeline()
	if p.BatchMaxEvents != 11 || p.BatchMaxBytes != 2048 || p.LingerMax != 7*time.Second || p.Memory != 3_000_000 || p.Flushers != 5 {
		t.Errorf("%+v", p)
	}
	if _, ttl := c.lease(); p.AppendMaxAge >= ttl {
		t.Errorf("a batch may be inserted for %s as if nothing had happened, and another may take over after %s", p.AppendMaxAge, ttl)
	}
}
