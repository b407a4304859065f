package events

import (
	"time"

	"github.com/google/uuid"
)

// Raw is a decoded event whose texts are slices of the message, or of the decoder's own memory where escapes had to be resolved. It is valid until
// the message changes or the decoder decodes again, and must not be written to.
type Raw struct {
	ID uuid.UUID
	// CreatedAt is in microseconds since 1970 UTC.
	CreatedAt                                            int64
	ActorID, ActorType, Action, ResourceType, ResourceID []byte
	// Metadata is the object exactly as it stood in the message, white space included; {} when it was absent.
	Metadata []byte
	// Reasoning is meaningful only with HasReasoning: an empty text is not the same as none.
	Reasoning    []byte
	HasReasoning bool
}

// Decoder reads messages. One message costs one pass and, as long as it is valid, no memory. The zero value is ready; a Decoder must not be used
// by several goroutines at once.
type Decoder struct {
	scan    scanner
	faults  faults
	scratch []byte
	// seen has the bit of each field that is there.
	seen uint16
	// tenant is tenant_id, when tenantRead.
	tenant     uuid.UUID
	tenantRead bool
}

// Bits of Decoder.seen, one for each field.
const (
	bitID = 1 << iota
	bitTenantID
	bitActorID
	bitActorType
	bitAction
	bitResourceType
	bitResourceID
	bitMetadata
	bitReasoning
	bitCreatedAt

	bitsRequired = bitID | bitActorID | bitActorType | bitAction | bitResourceType | bitResourceID | bitCreatedAt
)

// fieldNames is in the order of the bits.
var fieldNames = [...]string{fieldID, fieldTenantID, fieldActorID, fieldActorType, fieldAction, fieldResourceType, fieldResourceID,
	fieldMetadata, fieldReasoning, fieldCreatedAt}

// emptyObject stands for metadata that is absent.
var emptyObject = []byte("{}")

// Decode reads one message of the tenant whose subject it came on and which the stream took in at received. It returns nil and fills into, or a
// *ValidationError with every fault and leaves into unspecified. The verdict is a pure function of the arguments, so that a rebuild repeats it.
func (d *Decoder) Decode(data []byte, tenant uuid.UUID, received time.Time, into *Raw) error {
	d.decode(data, received, into)
	if d.tenantRead && d.tenant != tenant {
		d.faults.add(fieldTenantID, ruleMismatch)
	}
	return d.faults.err()
}

// Decode reads one event that says its tenant itself: the message's object plus tenant_id, which is required. It is for events in files;
// created_at is held against now. The result owns its memory. The error is a *ValidationError with every fault. The nil UUID as id or tenant_id,
// which a message may have, counts as missing here as it does in Event.
func Decode(data []byte, now time.Time) (Event, error) {
	var d Decoder
	var raw Raw
	d.decode(data, now, &raw)
	wellFormed := len(d.faults.list) != 1 || d.faults.list[0].Field != fieldMessage
	if wellFormed && d.seen&bitTenantID == 0 {
		d.faults.add(fieldTenantID, ruleMissing)
	}
	if err := d.faults.err(); err != nil {
		return Event{}, err
	}
	e := raw.Event(d.tenant)
	return e, e.validate(now)
}

// Event copies r into an Event of the tenant.
func (r *Raw) Event(tenant uuid.UUID) Event {
	e := Event{
		ID: r.ID, TenantID: tenant,
		ActorID: string(r.ActorID), ActorType: string(r.ActorType), Action: string(r.Action),
		ResourceType: string(r.ResourceType), ResourceID: string(r.ResourceID),
		Metadata: append([]byte(nil), r.Metadata...), CreatedAt: time.UnixMicro(r.CreatedAt).UTC(),
	}
	if r.HasReasoning {
		text := string(r.Reasoning)
		e.Reasoning = &text
	}
	return e
}

// decode reads the object and judges everything but the tenant, which it leaves in d.tenant.
func (d *Decoder) decode(data []byte, received time.Time, into *Raw) {
	d.scan.reset(data)
	d.faults.reset()
	d.scratch, d.seen, d.tenant, d.tenantRead = d.scratch[:0], 0, uuid.Nil, false
	*into = Raw{Metadata: emptyObject}
	if !d.object(received, into) {
		if d.scan.problem != "" {
			d.faults.only(d.scan.rule())
		}
		return
	}
	if missing := bitsRequired &^ d.seen; missing != 0 {
		for i, name := range fieldNames {
			if missing&(1<<i) != 0 {
				d.faults.add(name, ruleMissing)
			}
		}
	}
}

// object reads the message. It is false when there is no object to judge: the scanner has a problem, or the fault is recorded.
func (d *Decoder) object(received time.Time, into *Raw) bool {
	s := &d.scan
	if c := s.space(); c != '{' {
		return d.notObject()
	}
	s.pos++
	for first := true; ; first = false {
		c := s.space()
		if c == '}' {
			s.pos++
			break
		}
		if !first && !s.accept(',', "a comma or }") {
			return false
		}
		if s.space() != '"' {
			return s.unexpected("a name in quotes")
		}
		name, ok := s.scanString()
		if !ok || !s.accept(':', "a colon") || !d.member(name, received, into) {
			return false
		}
	}
	return d.end()
}

// end makes sure that nothing follows.
func (d *Decoder) end() bool {
	if d.scan.space(); d.scan.pos < len(d.scan.data) {
		return d.scan.fail("there is more after the value")
	}
	return true
}

// notObject says what stands in the place of the message's object.
func (d *Decoder) notObject() bool {
	s := &d.scan
	switch {
	case s.pos == len(s.data):
		d.faults.only(ruleEmptyInput)
		return false
	case len(s.data) >= 3 && string(s.data[:3]) == "\xef\xbb\xbf":
		d.faults.only(ruleBOM)
		return false
	}
	if v, ok := s.skipValue(); ok && d.end() {
		d.faults.only(ruleNotObject + ", not " + v.kind)
	}
	return false
}

// member reads the value of one field. It is false when the JSON is broken.
func (d *Decoder) member(name text, received time.Time, into *Raw) (ok bool) {
	if name.escaped {
		name.raw, _ = d.unescape(name.raw)
	}
	switch string(name.raw) {
	case fieldID:
		into.ID, _, ok = d.idField(fieldID, bitID)
		return ok
	case fieldTenantID:
		d.tenant, d.tenantRead, ok = d.idField(fieldTenantID, bitTenantID)
		return ok
	case fieldActorID:
		return d.textField(fieldActorID, bitActorID, &into.ActorID)
	case fieldActorType:
		return d.textField(fieldActorType, bitActorType, &into.ActorType)
	case fieldAction:
		return d.textField(fieldAction, bitAction, &into.Action)
	case fieldResourceType:
		return d.textField(fieldResourceType, bitResourceType, &into.ResourceType)
	case fieldResourceID:
		return d.textField(fieldResourceID, bitResourceID, &into.ResourceID)
	case fieldMetadata:
		return d.metadataField(into)
	case fieldReasoning:
		return d.reasoningField(into)
	case fieldCreatedAt:
		return d.createdAtField(received, into)
	}
	d.faults.add(printable(name.raw), ruleUnknown)
	_, ok = d.scan.skipValue()
	return ok
}
