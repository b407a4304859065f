package jetstream

import (
	"testing"
	"time"
)

// Ensure both forms of the reply subject are read, and that nothing else is.
func TestParseReply(t *testing.T) {
	f := func(reply string, ok bool) {
		t.Helper()
		d, err := parseReply(reply)
		if (err == nil) != ok {
			t.Errorf("%q: %v", reply, err)
			return
		}
		if want := (delivery{stream: 42, consumer: 7, at: time.Unix(1, 5).UTC(), pending: 3}); ok && d != want {
			t.Errorf("%q: %+v, want %+v", reply, d, want)
		}
	}
	f("$JS.ACK.AUDIT.c.1.42.7.1000000005.3", true)
	f("$JS.ACK._.hash.AUDIT.c.1.42.7.1000000005.3", true)
	f("$JS.ACK.hub.hash.AUDIT.c.1.42.7.1000000005.3.random", true)
	f("$JS.ACK.AUDIT.c.1.42.7.1000000005", false)
	f("$JS.ACK.AUDIT.c.1.x.7.1000000005.3", false)
	f("$JS.ACK.a.b.c.d.e.f.g.h.i.j.k.l", false)
	f("$JS.ACK.AUDIT.c.1.42.7.1000000005.x", false)
	f("_INBOX.x.y", false)
	f("", false)
}

func TestPartitionOf(t *testing.T) {
	for subject, want := range map[string]int{
		"audit.log.0.x": 0, "audit.log.15.01937b7e-0000-7000-8000-000000000000": 15, "audit.log.x.y": -1, "audit.events.x": -1, "audit.log.": -1, "": -1,
		"audit.log.123456.x": -1,
	} {
		if got := partitionOf(subject); got != want {
			t.Errorf("%q: %d, want %d", subject, got, want)
		}
	}
}
