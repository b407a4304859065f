package lifecycle

import (
	"testing"
	"time"
)

// LowerEraseLimits lets erasures be done after a time, and their metadata be changed by few at a time, until the test ends.
func LowerEraseLimits(t *testing.T, settle time.Duration, texts, bytes int) {
	s, n, b := eraseSettle, maxTexts, maxTextBytes
	t.Cleanup(func() { eraseSettle, maxTexts, maxTextBytes = s, n, b })
	eraseSettle, maxTexts, maxTextBytes = settle, texts, bytes
}

// LookOften lets keepers look all the time, until the test ends.
func LookOften(t *testing.T) {
	before := lookEvery
	t.Cleanup(func() { lookEvery = before })
	lookEvery = time.Millisecond
}
