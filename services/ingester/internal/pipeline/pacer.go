package pipeline

import (
	"sync"
	"time"
)

// pacer lets batches that are not full go while there are few of them, over all partitions: with a trickle every event goes at once, and
// at a steady rate batches grow instead of their number. It is a bucket of permits that fills at rate a second, with room for two seconds: what is left of a
// backlog goes at once when nothing follows, a batch of each partition. Safe for concurrent use.
type pacer struct {
	rate, burst float64

	mu    sync.Mutex
	level float64
	at    time.Time
}

func newPacer(rate float64) *pacer {
	burst := max(1, 2*rate)
	return &pacer{rate: rate, burst: burst, level: burst}
}

// take takes a permit if there is one, else it says when the next one comes. With force it takes one in any case.
func (p *pacer) take(now time.Time, force bool) (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.at.IsZero() && now.After(p.at) {
		p.level = min(p.burst, p.level+p.rate*now.Sub(p.at).Seconds())
	}
	p.at = now
	if p.level < 1 && !force {
		return false, now.Add(time.Duration((1 - p.level) / p.rate * float64(time.Second)))
	}
	// What is forced counts too, for up to two seconds: it is the few that must go that leave no room for those that may.
	p.level = max(p.level-1, -2*p.rate)
	return true, now
}
