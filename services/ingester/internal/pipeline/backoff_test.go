package pipeline

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// maxRecovery is how long after an outage's end everything may take to go on, however long it was.
const maxRecovery = 5 * time.Second

// Ensure that after an outage so long that pauses are at their longest all partitions go on within seconds, and that one of them alone has tried meanwhile.
func TestRecoveryTakesSeconds(t *testing.T) {
	w := newWorld()
	var driven []int
	for p := range 8 {
		driven = append(driven, p)
		w.add(p, 20, 0)
	}
	var away atomic.Bool
	var tries atomic.Int32
	away.Store(true)
	w.insert = func(string) outcome {
		if away.Load() {
			tries.Add(1)
			return refused
		}
		return works
	}
	_, stop := w.run(t, driven, func(c *Config, _ *process) { c.BackoffMin = backoffMax })
	begun := time.Now()
	for tries.Load() < int32(len(driven))+2 { //nolint:gosec // eight
		if time.Since(begun) > 10*time.Second {
			t.Fatalf("%d attempts in 10 s: nobody looks whether it works again", tries.Load())
		}
		time.Sleep(time.Millisecond)
	}
	if most := int32(len(driven)) + int32(2*time.Since(begun)/scoutMax) + 1; tries.Load() > most {
		t.Errorf("%d attempts in %s, want at most %d", tries.Load(), time.Since(begun), most)
	}
	away.Store(false)
	ended := time.Now()
	w.wantComplete(t)
	if took := time.Since(ended); took > maxRecovery {
		t.Errorf("went on %s after the end of the outage, want %s", took, maxRecovery)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Ensure partitions recover side by side though one alone may insert: after an outage each question may take seconds.
func TestRecoverSideBySide(t *testing.T) {
	w := newWorld()
	var driven []int
	var asking sync.WaitGroup
	for p := range recoveries {
		driven = append(driven, p)
		w.add(p, 20, 0)
		asking.Add(1)
	}
	_, stop := w.run(t, driven, func(c *Config, p *process) {
		c.Flushers = 1
		p.origin = func() { // answers when all have asked
			asking.Done()
			asking.Wait()
		}
	})
	w.wantComplete(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Ensure another one scouts when the scout is gone without success.
func TestScoutIsReplaced(t *testing.T) {
	s := newScouts()
	first, second := &backoff{what: "insert"}, &backoff{what: "insert"}
	if scout, _ := s.wait(first); !scout {
		t.Error("the first to wait does not scout")
	}
	scout, back := s.wait(second)
	if scout {
		t.Error("two scout")
	}
	s.end(first, false)
	select {
	case <-back:
	default:
		t.Error("nobody is told that the scout is gone")
	}
	if scout, _ := s.wait(second); !scout {
		t.Error("nobody scouts")
	}
}
