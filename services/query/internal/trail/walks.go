package trail

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// walkLife is how long after its last page a walk is surely remembered; it is forgotten after twice that.
	walkLife = time.Hour
	// maxWalks bounds what is remembered; beyond it walks are forgotten sooner, and recorded again when they go on.
	maxWalks = 1 << 14
)

type walkID [sha256.Size]byte

// walks remembers which walks have been recorded. A cursor may be used by another key of the tenant than the one that it was given to, and years
// later: its pages are not recorded only when their walk's beginning was.
type walks struct {
	mu       sync.Mutex
	now, old map[walkID]bool
	since    time.Time
}

func newWalks() *walks { return &walks{now: map[walkID]bool{}, old: map[walkID]bool{}} }

// seen remembers a walk and says whether it was known.
func (w *walks) seen(id walkID, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if age := now.Sub(w.since); age > walkLife || len(w.now) >= maxWalks/2 {
		w.old, w.now, w.since = w.now, map[walkID]bool{}, now
		if age > 2*walkLife {
			w.old = nil
		}
	}
	known := w.now[id] || w.old[id]
	w.now[id] = true
	return known
}
