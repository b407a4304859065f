package local

import (
	"fmt"
	"io"
	"time"
)

// progress prints one line per step of the start, with the time it took. A line is begun before its step, so that a slow
// one shows what is going on. Not for use from several goroutines.
type progress struct {
	out   io.Writer
	open  bool
	began time.Time
}

// step ends the step before and begins the next.
func (p *progress) step(name string) {
	p.end("%.1f s")
	p.open, p.began = true, time.Now()
	fmt.Fprintf(p.out, "  %s ... ", name)
}

// ready ends the last step.
func (p *progress) ready() { p.end("%.1f s") }

// failed ends the step that went wrong.
func (p *progress) failed() { p.end("failed after %.1f s") }

func (p *progress) end(format string) {
	if p.open {
		fmt.Fprintf(p.out, format+"\n", time.Since(p.began).Seconds())
	}
	p.open = false
}
