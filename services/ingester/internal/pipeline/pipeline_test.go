package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Ensure faults of inserts, in pairs, neither lose nor double a row: each is refused, applied with its reply lost, not applied, or used up.
func TestInsertFaults(t *testing.T) {
	kinds := map[string]outcome{"works": works, "refused": refused, "reply lost": replyLost, "request lost": requestLost, "token written": tokenWritten}
	for name1, first := range kinds {
		for name2, second := range kinds {
			for name3, third := range kinds {
				t.Run(strings.Join([]string{name1, name2, name3}, ", "), func(t *testing.T) {
					t.Parallel()
					w := newWorld()
					w.add(3, 20, 5)
					w.insert = script[string](first, second, third)
					_, stop := w.run(t, []int{3}, nil)
					w.wantComplete(t)
					if err := stop(); err != nil {
						t.Fatal(err)
					}
				})
			}
		}
	}
}

// Ensure the same of the ledger and of dead letters.
func TestAppendAndBuryFaults(t *testing.T) {
	for _, first := range []outcome{works, refused, replyLost, requestLost} {
		for _, second := range []outcome{works, refused, replyLost, requestLost} {
			t.Run(fmt.Sprint(first, second), func(t *testing.T) {
				t.Parallel()
				w := newWorld()
				w.add(3, 20, 5)
				appends, burials := script[struct{}](first, second), script[struct{}](second, first)
				w.append = func() outcome { return appends(struct{}{}) }
				w.bury = func() outcome { return burials(struct{}{}) }
				_, stop := w.run(t, []int{3}, nil)
				w.wantComplete(t)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Ensure a process that dies at any step, with any fault of the insert just before or after, is finished by the next.
func TestCrashAtEachStep(t *testing.T) {
	for _, step := range []Step{StepJudged, StepBuried, StepAppended, StepBlock, StepInserted, StepPosition} {
		for _, fault := range []outcome{works, replyLost, requestLost, tokenWritten} {
			t.Run(fmt.Sprint(step, fault), func(t *testing.T) {
				t.Parallel()
				w := newWorld()
				w.add(0, 30, 5)
				w.add(1, 30, 0)
				w.insert = script[string](fault)
				died := make(chan struct{})
				_, stop := w.run(t, []int{0, 1}, func(c *Config, p *process) {
					c.Hook = func(_ int, s Step) {
						if s == step && p.dead.CompareAndSwap(false, true) {
							close(died)
						}
					}
				})
				<-died
				_ = stop()
				w.mu.Lock()
				w.insert = script[string](fault)
				w.mu.Unlock()
				_, stop = w.run(t, []int{0, 1}, nil)
				w.wantComplete(t)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Ensure nothing is lost or doubled when the clock of the stream's server jumps by years between one message and the next, with faults and a crash in
// between, and that the time since an append or a first message is not taken from a clock that may jump.
func TestClockJumps(t *testing.T) {
	for _, fault := range []outcome{works, replyLost, requestLost, tokenWritten} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.add(0, 30, 5)
			for i := range w.stream[0] {
				m := &w.stream[0][i]
				m.Time = time.UnixMicro(w.made[m.Seq]).AddDate(10*(i%2), 0, 0).Add(-20 * time.Hour) // an event may be a day ahead of the server
			}
			w.insert = script[string](works, fault)
			died := make(chan struct{})
			var pipe *Pipeline
			_, stop := w.run(t, []int{0}, func(c *Config, p *process) {
				p.made = func(made *Pipeline) { pipe = made }
				appends := 0
				c.Hook = func(_ int, s Step) {
					d := pipe.driver(0)
					if s != StepAppended {
						return
					}
					for what, at := range map[string]time.Time{"append": d.appendedAt, "first message": d.flight.since} {
						if !strings.Contains(at.String(), " m=") {
							t.Errorf("the time of the %s has no monotonic reading: %s", what, at)
						}
					}
					if appends++; appends == 3 && p.dead.CompareAndSwap(false, true) {
						close(died)
					}
				}
			})
			select {
			case <-died:
			case <-time.After(10 * time.Second):
				t.Fatalf("there is no third append; the pipeline ended with: %v", stop())
			}
			_ = stop()
			_, stop = w.run(t, []int{0}, nil)
			w.wantComplete(t)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Ensure messages that are read from the stream once more are counted, by why.
func TestRedeliveries(t *testing.T) {
	count := func(pipe *Pipeline) (recovery, reader, forgotten float64) {
		c := pipe.metrics.redelivered
		return testutil.ToFloat64(c.recovery), testutil.ToFloat64(c.reader), testutil.ToFloat64(c.forgotten)
	}
	w := newWorld()
	w.add(0, 7, 0)
	w.insert = script[string](requestLost)
	died := make(chan struct{})
	_, stop := w.run(t, []int{0}, func(c *Config, p *process) {
		c.Hook = func(_ int, s Step) {
			if s == StepAppended && p.dead.CompareAndSwap(false, true) {
				close(died)
			}
		}
	})
	<-died
	_ = stop()
	w.add(0, 3, 0)
	var pipe *Pipeline
	p, stop := w.run(t, []int{0}, func(c *Config, p *process) {
		c.LingerMin, c.LingerMax = time.Hour, time.Hour // the 3 stay in memory
		p.made = func(made *Pipeline) { pipe = made }
		p.early = true
	})
	<-p.read
	if recovery, reader, _ := count(pipe); recovery != 7 || reader != 7 {
		t.Errorf("recovered %v messages, passed over %v, want 7 and 7", recovery, reader)
	}
	pipe.driver(0).close()
	if _, _, forgotten := count(pipe); forgotten != 3 {
		t.Errorf("forgot %v messages, want 3", forgotten)
	}
	_ = stop()
}

// Ensure a stop writes what was gathered, though it was too young to go.
func TestStopFlushes(t *testing.T) {
	w := newWorld()
	w.add(0, 5, 0)
	p, stop := w.run(t, []int{0}, func(c *Config, _ *process) { c.LingerMin, c.LingerMax = time.Hour, time.Hour })
	<-p.read
	if _, err := p.Last(t.Context(), 0); err != nil || len(w.ledger[0]) != 0 {
		t.Errorf("a young batch has gone: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.complete(); err != nil {
		t.Fatal(err)
	}
}

// Ensure a driver that is fenced, or whose process is no longer counted on, inserts nothing, and that it begins anew when it may.
func TestFencedAndInvalid(t *testing.T) {
	w := newWorld()
	w.add(0, 20, 0)
	w.append = script2(fenced)
	w.valid = false
	_, stop := w.run(t, []int{0}, nil)
	time.Sleep(1500 * time.Millisecond) // past the rest of a partition that was let go
	w.mu.Lock()
	if len(w.table) != 0 {
		t.Errorf("%d rows were inserted without a valid lease", len(w.table))
	}
	w.valid = true
	w.mu.Unlock()
	w.wantComplete(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func script2(outcomes ...outcome) func() outcome {
	next := script[struct{}](outcomes...)
	return func() outcome { return next(struct{}{}) }
}

// Ensure that what somebody has to look at ends the process with a text that says so.
func TestFatal(t *testing.T) {
	prepare := func(t *testing.T) *world {
		w := newWorld()
		w.add(0, 12, 0) // more than a batch
		_, stop := w.run(t, []int{0}, nil)
		w.wantComplete(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	f := func(name string, harm func(*world), want error) {
		t.Run(name, func(t *testing.T) {
			w := prepare(t)
			harm(w)
			_, stop := w.run(t, []int{0}, nil)
			time.Sleep(200 * time.Millisecond)
			if err := stop(); !errors.Is(err, want) || Classify(err, Transient) != Fatal {
				t.Errorf("ended with %v, want %v", err, want)
			}
		})
	}
	// The rows are lost and the message is another one than was written down.
	f("stream changed", func(w *world) { clear(w.table); w.stream[0][11].Data = []byte("{}") }, ErrChanged)
	// The ledger has lost its end, or all, and position or table tell.
	f("ledger gone", func(w *world) { clear(w.ledger); clear(w.table) }, ledger.ErrTruncated)
	f("ledger and positions gone", func(w *world) { clear(w.ledger); clear(w.pos) }, ledger.ErrTruncated)
	f("ledger older than the table", func(w *world) {
		w.ledger[0] = w.ledger[0][:1]
		w.pos[0] = ledger.Position{Batch: 1, LastSeq: w.ledger[0][0].LastSeq}
	}, ledger.ErrTruncated)
	// The rows are lost, so are the messages, and no position says that they had been there.
	f("stream gone", func(w *world) { clear(w.table); w.stream[0] = nil; clear(w.pos) }, ErrGone)
}

// Ensure that a committed batch of which rows were folded and messages trimmed does not stop the next start.
func TestFoldedAndTrimmed(t *testing.T) {
	w := newWorld()
	w.add(0, 5, 0)
	_, stop := w.run(t, []int{0}, nil)
	w.wantComplete(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	first := w.stream[0][0].Seq
	delete(w.table, first)
	w.stream[0] = w.stream[0][1:]
	_, stop = w.run(t, []int{0}, nil)
	time.Sleep(100 * time.Millisecond)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Ensure memory is bounded: the reader waits, and everything arrives all the same.
func TestMemoryBound(t *testing.T) {
	w := newWorld()
	w.add(0, 200, 0)
	w.add(1, 200, 0)
	limit, one := 20*rowOverhead, rowOverhead+64
	var pipe *Pipeline
	w.insert = func(string) outcome {
		if used := pipe.memory.inUse(); used > limit+one {
			t.Errorf("%d bytes in memory, limit is %d and one message", used, limit)
		}
		return works
	}
	_, stop := w.run(t, []int{0, 1}, func(c *Config, p *process) {
		c.Memory = limit
		c.BatchMaxEvents = 1000 // nothing but the memory's bound makes a batch go
		c.LingerMin, c.LingerMax = time.Millisecond, time.Hour
		p.made = func(made *Pipeline) { pipe = made }
	})
	w.wantComplete(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Ensure the class of every error in the table, wrapped, and of those that are not in it.
func TestClassify(t *testing.T) {
	want := map[error]Class{
		context.Canceled: Stopping, context.DeadlineExceeded: Transient,
		events.ErrLogSubject: Poison, &events.ValidationError{}: Poison,
		ErrInDoubt: InDoubt, ErrTransient: Transient, ErrFatal: Fatal, ErrGone: Fatal, ErrChanged: Fatal, ErrLost: Lost,
		ledger.ErrUnknown: Transient, ledger.ErrFenced: Lost, ledger.ErrCorrupt: Fatal, ledger.ErrTruncated: Fatal,
		control.ErrLost: Fatal, control.ErrCorrupt: Fatal, control.ErrMoved: Transient, control.ErrUnknown: Transient,
	}
	for err, class := range want {
		if got := Classify(fmt.Errorf("do something: %w", err), Fatal); got != class {
			t.Errorf("%v: %s, want %s", err, got, class)
		}
	}
	for _, c := range classes {
		if _, ok := want[c.err]; !ok {
			t.Errorf("%v is in the table and not in the test", c.err)
		}
		if c.class == Fatal && c.help == "" && !errors.Is(c.err, ErrFatal) {
			t.Errorf("%v is fatal and says nothing about what to do", c.err)
		}
		if c.help != "" && !strings.Contains(Advise(c.err).Error(), c.help) {
			t.Errorf("%v: advice is lost", c.err)
		}
	}
	if got := Classify(errLink, Transient); got != Transient {
		t.Errorf("unlisted: %s", got)
	}
	if !slices.ContainsFunc(classes, func(c struct {
		err   error
		class Class
		help  string
	}) bool {
		return c.class == InDoubt
	}) {
		t.Error("nothing is in doubt")
	}
}
