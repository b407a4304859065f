package app

import (
	"testing"
	"time"
)

// Ensure events go all the way, and that a service that is stopped writes what it holds.
func TestFullPath(t *testing.T) {
	r := newRig(t)
	_, stop := r.serve(t, nil)
	r.publish(t, 500, 20)
	r.wantRows(t, 500, 10*time.Second)
	r.publish(t, 300, 20)
	stop()
	r.serve(t, nil)
	r.wantRows(t, 800, 10*time.Second)
}
