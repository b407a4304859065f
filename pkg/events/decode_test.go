package events

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

var (
	testTenant   = uuid.MustParse("01937b7e-0000-7000-8000-0000000000aa")
	testReceived = time.Date(2026, 11, 23, 1, 2, 4, 0, time.UTC)
)

const typicalMessage = `{"id":"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69","actor_id":"user_17","actor_type":"user","action":"invoice.approve","resource_type":"invoice","resource_id":"inv_42_2026_11","metadata":{"ip":"203.0.113.9","amount":1234.50,"currency":"EUR","approved":true,"session":"c2f1b7d0e4","user_agent":"Mozilla/5.0 (X11; Linux x86_64)"},"reasoning":"within the delegated limit of the department","created_at":"2026-11-23T01:02:03.123456Z"}`

func BenchmarkDecode(b *testing.B) {
	var d Decoder
	var raw Raw
	data := []byte(typicalMessage)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Decode(data, testTenant, testReceived, &raw); err != nil {
			b.Fatal(err)
		}
	}
}
