package events

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits of an event.
const (
	// MaxTextBytes bounds actor_id, actor_type, action, resource_type and resource_id, in bytes of UTF-8 after JSON escapes are resolved.
	MaxTextBytes = 256
	// MaxMetadataBytes bounds metadata as it stands in the message, from { to }, white space between its tokens included.
	MaxMetadataBytes = 64 << 10
	// MaxMetadataDepth is how many objects and arrays may stand inside one another in metadata, its own braces counted as the first. ClickHouse's
	// JSON functions give up near 1000, encoding/json at 10000.
	MaxMetadataDepth = 512
	// MaxReasoningBytes bounds reasoning, in bytes of UTF-8 after JSON escapes are resolved.
	MaxReasoningBytes = 16 << 10
	// MaxFuture is how far created_at may lie after the stream's own timestamp of the message: clocks differ, but not by more than a day.
	MaxFuture = 24 * time.Hour
)

// Event says who did what to what, when and why. The same event published again (same tenant, ID and CreatedAt) counts once.
type Event struct {
	// ID is the event's identity; any UUID but the nil one. The Publisher makes a version 7 UUID when it is left out.
	ID uuid.UUID
	// TenantID is whose log it belongs to. It travels in the subject, not in the message.
	TenantID uuid.UUID
	// ActorID, ActorType, Action, ResourceType and ResourceID are 1 to MaxTextBytes bytes of UTF-8 without control characters.
	ActorID, ActorType, Action, ResourceType, ResourceID string
	// Metadata is a JSON object of at most MaxMetadataBytes, kept token by token; nil stands for {}.
	Metadata json.RawMessage
	// Reasoning is at most MaxReasoningBytes of UTF-8; nil for none, which is not the same as an empty text.
	Reasoning *string
	// CreatedAt is when it happened, kept to the microsecond (what is finer is cut), from 1970 to MaxFuture from now. The
	// Publisher takes the current time when it is the zero time.
	CreatedAt time.Time
}

// Validate returns nil, or a *ValidationError with every fault. It holds CreatedAt against this machine's clock; the ingester does so against
// the stream's timestamp.
func (e *Event) Validate() error { return e.validate(time.Now()) }

func (e *Event) validate(now time.Time) error {
	var f faults
	if e.ID == uuid.Nil {
		f.add(fieldID, ruleMissing)
	}
	if e.TenantID == uuid.Nil {
		f.add(fieldTenantID, ruleMissing)
	}
	f.text(fieldActorID, e.ActorID)
	f.text(fieldActorType, e.ActorType)
	f.text(fieldAction, e.Action)
	f.text(fieldResourceType, e.ResourceType)
	f.text(fieldResourceID, e.ResourceID)
	if len(e.Metadata) > 0 {
		f.metadata(e.Metadata)
	}
	if e.Reasoning != nil {
		f.reasoning(*e.Reasoning)
	}
	if e.CreatedAt.IsZero() {
		f.add(fieldCreatedAt, ruleMissing)
	} else if year := e.CreatedAt.UTC().Year(); year > 9999 {
		f.add(fieldCreatedAt, ruleFuture) // beyond what RFC 3339 can write and 64 bits of microseconds can hold
	} else {
		f.createdAt(e.CreatedAt, now)
	}
	return f.err()
}

// Encode validates e and returns the message to publish to Subject(e.TenantID).
func (e *Event) Encode() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return e.append(make([]byte, 0, e.sizeHint())), nil
}

// fixedBytes is about what a message takes beside its texts: field names, id, time.
const fixedBytes = 256

func (e *Event) sizeHint() int {
	n := fixedBytes + len(e.ActorID) + len(e.ActorType) + len(e.Action) + len(e.ResourceType) + len(e.ResourceID) + len(e.Metadata)
	if e.Reasoning != nil {
		n += len(*e.Reasoning)
	}
	return n
}

// append writes the wire object of a valid event. The tenant stays out: the subject says it.
func (e *Event) append(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = appendUUID(b, e.ID)
	b = append(b, `","actor_id":`...)
	b = appendString(b, e.ActorID)
	b = append(b, `,"actor_type":`...)
	b = appendString(b, e.ActorType)
	b = append(b, `,"action":`...)
	b = appendString(b, e.Action)
	b = append(b, `,"resource_type":`...)
	b = appendString(b, e.ResourceType)
	b = append(b, `,"resource_id":`...)
	b = appendString(b, e.ResourceID)
	if len(e.Metadata) > 0 {
		b = append(b, `,"metadata":`...)
		b = append(b, e.Metadata...)
	}
	if e.Reasoning != nil {
		b = append(b, `,"reasoning":`...)
		b = appendString(b, *e.Reasoning)
	}
	b = append(b, `,"created_at":"`...)
	b = e.CreatedAt.UTC().AppendFormat(b, timeLayout)
	return append(b, `"}`...)
}

// timeLayout cuts digits beyond the microsecond, as time.Format does.
const timeLayout = "2006-01-02T15:04:05.000000Z"

func appendUUID(b []byte, id uuid.UUID) []byte {
	var text [36]byte
	encodeUUID(&text, id)
	return append(b, text[:]...)
}

// appendString quotes s, escaping only what JSON demands, so that text survives byte for byte.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		start = i + 1
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// text checks one of the five short strings.
func (f *faults) text(field, s string) {
	if s == "" {
		f.add(field, ruleEmpty)
		return
	}
	if len(s) > MaxTextBytes {
		f.add(field, "is "+strconv.Itoa(len(s))+" bytes, more than "+strconv.Itoa(MaxTextBytes))
	}
	if !utf8.ValidString(s) {
		f.add(field, ruleUTF8)
	}
	if hasControl(s) {
		f.add(field, ruleControl)
	}
}

// reasoning checks the optional long text, in which line breaks and other control characters are welcome.
func (f *faults) reasoning(s string) {
	if len(s) > MaxReasoningBytes {
		f.add(fieldReasoning, "is "+strconv.Itoa(len(s))+" bytes, more than "+strconv.Itoa(MaxReasoningBytes))
	}
	if !utf8.ValidString(s) {
		f.add(fieldReasoning, ruleUTF8)
	}
}

// createdAt checks a time to the microsecond, its finer digits cut.
func (f *faults) createdAt(t, received time.Time) { f.createdAtMicro(t.UnixMicro(), received) }

func (f *faults) createdAtMicro(micros int64, received time.Time) {
	if micros < 0 {
		f.add(fieldCreatedAt, rulePast)
	}
	if micros > received.UnixMicro()+MaxFuture.Microseconds() {
		f.add(fieldCreatedAt, ruleFuture)
	}
}

// hasControl says whether s holds a character of Unicode category Cc: U+0000 to U+001F and U+007F to U+009F.
func hasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < 0x20 || c == 0x7f:
			return true
		case c == 0xc2 && i+1 < len(s) && s[i+1] >= 0x80 && s[i+1] <= 0x9f:
			return true
		}
	}
	return false
}
