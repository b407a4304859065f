package events_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/events"
)

// A service publishes an event and goes on only when it is stored.
func Example() {
	nc, err := nats.Connect("nats://127.0.0.1:4222", nats.MaxReconnects(-1))
	if err != nil {
		return // handle it
	}
	defer nc.Close()
	publisher, err := events.NewPublisher(nc)
	if err != nil {
		return // handle it
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	defer func() { _ = publisher.Close(ctx) }()

	err = publisher.Publish(ctx, events.Event{
		TenantID: uuid.MustParse("01937b7e-0000-7000-8000-0000000000aa"),
		ActorID:  "user_17", ActorType: "user", Action: "invoice.approve", ResourceType: "invoice", ResourceID: "inv_42",
		Metadata: json.RawMessage(`{"ip":"203.0.113.9"}`),
	})
	if err != nil {
		return // the event is not known to be stored: keep it and publish it again with the same ID
	}
}

// Every fault of an event is reported at once.
func ExampleEvent_Validate() {
	e := events.Event{ID: events.NewID(), TenantID: uuid.New(), ActorID: "user_17", ActorType: "user", Action: "a\nb", ResourceType: "invoice",
		CreatedAt: time.Now()}
	fmt.Println(e.Validate())
	// Output: invalid event: action: has a control character; resource_id: is empty
}

// Messages in the stream say their tenant in the subject.
func ExampleDecoder_Decode() {
	partition, tenant, err := events.ParseLogSubject("audit.log.4.01937b7e-0000-7000-8000-0000000000aa")
	if err != nil {
		return
	}
	message := []byte(`{"id":"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69","actor_id":"user_17","actor_type":"user","action":"invoice.approve",
		"resource_type":"invoice","resource_id":"inv_42","created_at":"2026-11-23T01:02:03.123456Z"}`)
	var decoder events.Decoder
	var raw events.Raw
	err = decoder.Decode(message, tenant, time.Date(2026, 11, 23, 1, 2, 4, 0, time.UTC), &raw)
	fmt.Println(partition, string(raw.Action), string(raw.Metadata), time.UnixMicro(raw.CreatedAt).UTC(), err)
	// Output: 4 invoice.approve {} 2026-11-23 01:02:03.123456 +0000 UTC <nil>
}
