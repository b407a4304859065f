// Package events defines an audit event, the rules it must obey, its form on the wire, the subjects it is published to, and a durable publisher.
//
// A producer in short:
//
//	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
//	...
//	publisher, err := events.NewPublisher(nc)
//	...
//	err = publisher.Publish(ctx, events.Event{
//		TenantID: tenant, ActorID: "user_17", ActorType: "user", Action: "invoice.approve",
//		ResourceType: "invoice", ResourceID: "inv_42", Metadata: json.RawMessage(`{"ip":"203.0.113.9"}`),
//	})
//	if err != nil {
//		// Not known to be stored: keep the event and publish it again with the same ID.
//	}
//	...
//	err = publisher.Close(ctx) // waits for what is on its way
//	nc.Close()
//
// # Guarantees
//
// When Publish returns nil, or Future.Wait does, the event is on the stream's disk and not lost any more. After ErrUnconfirmed it may or may not be
// stored; after any other error it is not.
//
// The same event published again (same tenant, ID and CreatedAt) counts once, however much later. A caller that repeats a failed publish MUST
// therefore set ID and CreatedAt itself and keep both; an event with another CreatedAt is another event.
//
// Callers MUST NOT assume that an event is stored before its publish has returned nil, and MUST close the Publisher before the connection.
// Callers MUST NOT publish for a tenant whose data they do not own: the subject alone says whose log an event belongs to, so a producer's
// NATS permissions are its tenancy.
//
// Events of one tenant published by one goroutine are stored in that order; Publisher names the one exception. Nothing is said about the order of
// different goroutines, and readers order by CreatedAt.
//
// # What a message may be
//
// One JSON object (RFC 8259, UTF-8, no byte order mark) with the fields of Event by their names in snake case. Unknown fields, a field that is
// there twice and null are refused. An id is any UUID in the form 8-4-4-4-12, letters in either case.
//
// metadata is kept as the bytes it came as, from { to }, and these bytes are what its limit counts. Half surrogate escapes (\ud800) and \u0000 are
// JSON and stay as they are in metadata; in the other fields, which become text, half a surrogate is refused. \u0000 is a control
// character in the short fields and welcome in reasoning.
//
// created_at is RFC 3339's date-time with T, Z and offset exactly as the RFC has them, in either case. Digits beyond the microsecond are cut. A leap
// second counts as the second that follows it.
package events
