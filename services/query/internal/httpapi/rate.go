package httpapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// burstFactor is how many seconds' worth of requests a key may make at once.
	burstFactor = 2
	// sweepEvery is how often limiters that are full again are forgotten.
	sweepEvery = time.Minute
)

// rates holds one limiter for each key that asked lately.
type rates struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex
	byKey map[string]*rate.Limiter
	swept time.Time
}

func newRates(perSecond float64) *rates {
	return &rates{limit: rate.Limit(perSecond), burst: max(1, int(perSecond*burstFactor)), byKey: map[string]*rate.Limiter{}}
}

// wait takes one request of a key into account. It is 0 when the request may go on, else how long until the next one may.
func (r *rates) wait(key string, now time.Time) time.Duration {
	if r.limit <= 0 {
		return 0
	}
	res := r.limiter(key, now).ReserveN(now, 1)
	d := res.DelayFrom(now)
	if d > 0 {
		res.CancelAt(now) // a refused request costs nothing
	}
	return d
}

// size is how many keys have a limiter.
func (r *rates) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byKey)
}

func (r *rates) limiter(key string, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) > sweepEvery {
		r.swept = now
		for k, l := range r.byKey {
			if l.TokensAt(now) >= float64(r.burst) {
				delete(r.byKey, k)
			}
		}
	}
	l, ok := r.byKey[key]
	if !ok {
		l = rate.NewLimiter(r.limit, r.burst)
		r.byKey[key] = l
	}
	return l
}
