//go:build faultinject

package pipeline

import "os"

// The mistakes that simpler pipelines make, one of which AUDIT_BREAK chooses: the entry in the ledger counts as the commit, so that a batch
// is done before its insert; an insert in doubt counts as applied; an insert in doubt counts as not applied.
var (
	breakAckFirst     = os.Getenv("AUDIT_BREAK") == "ack-first"
	breakSkipReadback = os.Getenv("AUDIT_BREAK") == "skip-readback"
	breakBlindRetry   = os.Getenv("AUDIT_BREAK") == "blind-retry"
)
