package replay

import (
	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// Judge decides on messages as the ingester does: a pure function of the message. It must not be used by several goroutines.
type Judge struct {
	decoder events.Decoder
	raw     events.Raw
}

// Row returns the event that the message is, valid until the next call, or ok false when it is a dead letter.
func (j *Judge) Row(m *Message) (tenant uuid.UUID, ev *events.Raw, ok bool) {
	_, tenant, err := events.ParseLogSubject(m.Subject)
	if err != nil {
		return tenant, nil, false
	}
	if err := j.decoder.Decode(m.Data, tenant, m.Time, &j.raw); err != nil {
		return tenant, nil, false
	}
	return tenant, &j.raw, true
}
