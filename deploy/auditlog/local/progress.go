package local

import (
	"fmt"
	"io"
	"time"
)

// progress prints a line before each step of the start, so that a slow one shows what is going on, and the time it took after it.
// Each is a line of its own: on a terminal the log's lines come in between. Not for use from several goroutines.
type progress struct {
	out   io.Writer
	open  bool
	began time.Time
}

// step ends the step before and begins the next.
func (p *progress) step(name string) {
	p.end("took %.1f s")
	p.open, p.began = true, time.Now()
	fmt.Fprintf(p.out, "  %s ...\n", name)
}

// ready ends the last step.
func (p *progress) ready() { p.end("took %.1f s") }

// failed ends the step that went wrong.
func (p *progress) failed() { p.end("failed after %.1f s") }

func (p *progress) end(format string) {
	if p.open {
		fmt.Fprintf(p.out, "    "+format+"\n", time.Since(p.began).Seconds())
	}
	p.open = false
}
