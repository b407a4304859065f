package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	barWidth    = 30
	barInterval = 200 * time.Millisecond
)

// bar shows the progress on a terminal, and nothing elsewhere.
type bar struct {
	quit, done chan struct{}
}

// newBar starts a bar on out. size is how many bytes there are to read, 0 when that is not known.
func newBar(out io.Writer, size int64, read *countingReader, s *sender) *bar {
	b := &bar{quit: make(chan struct{}), done: make(chan struct{})}
	if !isTerminal(out) {
		close(b.done)
		return b
	}
	start := time.Now()
	go func() {
		defer close(b.done)
		tick := time.NewTicker(barInterval)
		defer tick.Stop()
		for {
			last := false
			select {
			case <-tick.C:
			case <-b.quit:
				last = true
			}
			s.mu.Lock()
			_, _ = io.WriteString(out, "\r\x1b[K"+barText(s.stored(), read.n.Load(), size, time.Since(start)))
			if last {
				_, _ = io.WriteString(out, "\n")
			}
			s.mu.Unlock()
			if last {
				return
			}
		}
	}()
	return b
}

// stop draws the bar a last time.
func (b *bar) stop() {
	close(b.quit)
	<-b.done
}

func barText(stored, read, size int64, took time.Duration) string {
	rate := float64(stored) / max(took.Seconds(), 1e-3)
	if size <= 0 {
		return fmt.Sprintf("%d events, %.0f/s", stored, rate)
	}
	share := min(float64(read)/float64(size), 1)
	full := int(share * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f%%  %d events, %.0f/s",
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), share*100, stored, rate)
}

// isTerminal says whether out is a character device.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
