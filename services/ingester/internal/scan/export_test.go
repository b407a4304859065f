package scan

import (
	"testing"
	"time"
)

// LowerLimits makes readers be given up sooner for the length of a test.
func LowerLimits(t testing.TB, each time.Duration, most int) {
	e, m := stall, stalls
	stall, stalls = each, most
	t.Cleanup(func() { stall, stalls = e, m })
}
