//go:build !faultinject

package pipeline

// Faults that make deploy/auditlog/chaos prove that it would find them. In every ordinary build they are constants, and the compiler leaves
// out what hangs on them.
const (
	breakAckFirst     = false
	breakSkipReadback = false
	breakBlindRetry   = false
)
