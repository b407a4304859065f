package events

import (
	"strconv"
	"strings"
)

// Names of the fields, as in the message and in Fault.Field.
const (
	fieldMessage      = "message"
	fieldID           = "id"
	fieldTenantID     = "tenant_id"
	fieldActorID      = "actor_id"
	fieldActorType    = "actor_type"
	fieldAction       = "action"
	fieldResourceType = "resource_type"
	fieldResourceID   = "resource_id"
	fieldMetadata     = "metadata"
	fieldReasoning    = "reasoning"
	fieldCreatedAt    = "created_at"
)

// What can be wrong with a field. A rule reads as the end of a sentence that begins with the field.
const (
	ruleMissing    = "is missing"
	ruleEmpty      = "is empty"
	ruleUTF8       = "is not valid UTF-8"
	ruleSurrogate  = `has half of a surrogate pair (\ud800 to \udfff), which is no character`
	ruleControl    = "has a control character"
	ruleUnknown    = "is not a field of an event"
	ruleTwice      = "is there more than once"
	ruleUUID       = "is not a UUID of the form 8-4-4-4-12"
	ruleMismatch   = "is not the tenant of the subject"
	ruleTimestamp  = "is not an RFC 3339 time with offset, such as 2026-11-23T01:02:03.123456Z"
	rulePast       = "is before 1970"
	ruleFuture     = "is more than a day after the message arrived"
	ruleNotObject  = "must be a JSON object"
	ruleTooDeep    = "nests more than 512 levels deep"
	ruleBOM        = "begins with a byte order mark, which JSON does not allow"
	ruleEmptyInput = "is empty, not a JSON object"
)

const (
	// maxFaults bounds how many faults one error holds: a hostile message may have tens of thousands of unknown fields.
	maxFaults = 32
	// maxNameBytes bounds how much of an unknown field's name a fault repeats.
	maxNameBytes = 64
)

// Fault is one broken rule.
type Fault struct {
	// Field is the field's name, or "message" when the message as a whole is at fault. Names of unknown fields are cut and quoted when
	// they are long or not printable, so a Fault is always safe to log and to put into a header.
	Field string
	// Rule says what is wrong with it: "is missing", "is 300 bytes, more than 256".
	Rule string
}

// String is field and rule as one sentence.
func (f Fault) String() string { return f.Field + ": " + f.Rule }

// ValidationError is returned for an event that cannot be accepted. It holds every fault (the first 32 of them), or exactly one when the message
// is not JSON at all: what follows a syntax error cannot be judged.
type ValidationError struct {
	Faults []Fault
	// More is how many faults were found beyond those listed.
	More int
}

// Error lists the faults in one line.
func (e *ValidationError) Error() string {
	var b strings.Builder
	b.WriteString("invalid event: ")
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.String())
	}
	if e.More > 0 {
		b.WriteString("; and " + strconv.Itoa(e.More) + " more")
	}
	return b.String()
}

// faults collects what is wrong with one event.
type faults struct {
	list []Fault
	more int
}

func (f *faults) add(field, rule string) {
	if len(f.list) == maxFaults {
		f.more++
		return
	}
	f.list = append(f.list, Fault{Field: field, Rule: rule})
}

// only forgets what was found so far: a syntax error leaves nothing else to say.
func (f *faults) only(rule string) {
	f.reset()
	f.add(fieldMessage, rule)
}

func (f *faults) reset() { f.list, f.more = f.list[:0], 0 }

// err is nil, or the faults as an error that does not share memory with f.
func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &ValidationError{Faults: append([]Fault(nil), f.list...), More: f.more}
}

// printable makes an unknown field's name fit for a log line or a header.
func printable(name []byte) string {
	cut := ""
	if len(name) > maxNameBytes {
		name, cut = name[:maxNameBytes], "..."
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f || c == '"' {
			return strconv.QuoteToASCII(string(name)) + cut
		}
	}
	if len(name) == 0 {
		return `""`
	}
	return string(name) + cut
}
