package verify

import "testing"

// LowerLimits makes few batches and messages many for the length of a test.
func LowerLimits(t testing.TB, batches, messages int) {
	b, m := groupBatches, chunkMessages
	groupBatches, chunkMessages = batches, messages
	t.Cleanup(func() { groupBatches, chunkMessages = b, m })
}
