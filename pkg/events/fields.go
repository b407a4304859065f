package events

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"github.com/google/uuid"
)

// stringValue reads the value of a field that must be a string and resolves its escapes. valid is false when a fault has been recorded and there
// is no text to judge, ok when the JSON is broken.
func (d *Decoder) stringValue(field string, bit uint16) (t text, valid, ok bool) {
	d.once(field, bit)
	s := &d.scan
	if s.space() != '"' {
		v, ok := s.skipValue()
		d.faults.add(field, "must be a string, not "+v.kind)
		return t, false, ok
	}
	if t, ok = s.scanString(); !ok {
		return t, false, false
	}
	if t.escaped {
		raw, whole := d.unescape(t.raw)
		if !whole {
			d.faults.add(field, ruleSurrogate)
			return t, false, true
		}
		t.raw = raw
		t.wide = true // an escape may stand for any character
	}
	return t, true, true
}

// once records that a field is there, and that it must not be there again: which of the two would count?
func (d *Decoder) once(field string, bit uint16) {
	if d.seen&bit != 0 {
		d.faults.add(field, ruleTwice)
	}
	d.seen |= bit
}

// deleteChar is the one ASCII control character that JSON lets stand in a string as it is.
const deleteChar = 0x7f

func (d *Decoder) textField(field string, bit uint16, into *[]byte) bool {
	t, valid, ok := d.stringValue(field, bit)
	if !valid {
		return ok
	}
	*into = t.raw
	if n := len(t.raw); n == 0 || n > MaxTextBytes || t.wide || bytes.IndexByte(t.raw, deleteChar) >= 0 {
		d.faults.text(field, view(t.raw))
	}
	return true
}

func (d *Decoder) reasoningField(into *Raw) bool {
	t, valid, ok := d.stringValue(fieldReasoning, bitReasoning)
	if !valid {
		return ok
	}
	into.Reasoning, into.HasReasoning = t.raw, true
	if t.wide || len(t.raw) > MaxReasoningBytes {
		d.faults.reasoning(view(t.raw))
	}
	return true
}

// idField reads a UUID; isUUID is false when a fault has been recorded instead.
func (d *Decoder) idField(field string, bit uint16) (id uuid.UUID, isUUID, ok bool) {
	t, valid, ok := d.stringValue(field, bit)
	if !valid {
		return uuid.Nil, false, ok
	}
	if id, isUUID = parseUUID(t.raw, anyCase); !isUUID {
		d.faults.add(field, ruleUUID)
	}
	return id, isUUID, true
}

func (d *Decoder) createdAtField(received time.Time, into *Raw) bool {
	t, valid, ok := d.stringValue(fieldCreatedAt, bitCreatedAt)
	if !valid {
		return ok
	}
	micros, isTime := parseTime(t.raw)
	if !isTime {
		d.faults.add(fieldCreatedAt, ruleTimestamp)
		return true
	}
	into.CreatedAt = micros
	d.faults.createdAtMicro(micros, received)
	return true
}

func (d *Decoder) metadataField(into *Raw) bool {
	d.once(fieldMetadata, bitMetadata)
	d.scan.space()
	start := d.scan.pos
	v, ok := d.scan.skipValue()
	if !ok {
		return false
	}
	into.Metadata = d.scan.data[start:d.scan.pos]
	d.faults.metadataValue(into.Metadata, v)
	return true
}

// metadata checks an object that did not come in a message.
func (f *faults) metadata(data []byte) {
	var d Decoder
	d.scan.reset(data)
	v, ok := d.scan.skipValue()
	if !ok || !d.end() {
		f.add(fieldMetadata, d.scan.rule())
		return
	}
	f.metadataValue(data, v)
}

// metadataValue checks a well-formed value that stands for metadata.
func (f *faults) metadataValue(data []byte, v value) {
	if v.kind != kindObject {
		f.add(fieldMetadata, ruleNotObject+", not "+v.kind)
	}
	if len(data) > MaxMetadataBytes {
		f.add(fieldMetadata, "is "+strconv.Itoa(len(data))+" bytes, more than "+strconv.Itoa(MaxMetadataBytes))
	}
	if v.depth > MaxMetadataDepth {
		f.add(fieldMetadata, ruleTooDeep)
	}
	if v.wide && !utf8.Valid(data) {
		f.add(fieldMetadata, ruleUTF8)
	}
}

// unescape resolves the escapes of a string that scanString accepted, into memory that lives as long as the decoded event. whole is false when a
// \u escape is half of a surrogate pair and so stands for no character.
func (d *Decoder) unescape(raw []byte) (out []byte, whole bool) {
	start := len(d.scratch)
	b := d.scratch
	whole = true
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			b = append(b, raw[i])
			i++
			continue
		}
		if raw[i+1] != 'u' {
			b = append(b, shortEscapes[raw[i+1]])
			i += 2
			continue
		}
		r, _ := hex4(raw[i+2:])
		i += 6
		if utf16.IsSurrogate(r) {
			low := rune(-1)
			if len(raw)-i >= 6 && raw[i] == '\\' && raw[i+1] == 'u' {
				low, _ = hex4(raw[i+2:])
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				whole = false
			} else {
				i += 6
			}
		}
		b = utf8.AppendRune(b, r)
	}
	d.scratch = b
	return b[start:len(b):len(b)], whole
}

// shortEscapes is what the letter after a backslash stands for.
var shortEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// view is b as a string that shares its memory, for checks that do not keep it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
