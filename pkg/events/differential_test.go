package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// reference is how encoding/json sees a message.
type reference struct {
	ID           *string         `json:"id"`
	TenantID     *string         `json:"tenant_id"`
	ActorID      *string         `json:"actor_id"`
	ActorType    *string         `json:"actor_type"`
	Action       *string         `json:"action"`
	ResourceType *string         `json:"resource_type"`
	ResourceID   *string         `json:"resource_id"`
	Metadata     json.RawMessage `json:"metadata"`
	Reasoning    *string         `json:"reasoning"`
	CreatedAt    *string         `json:"created_at"`
}

// agree fails unless the decoder and encoding/json say the same about data where their rules overlap: whether it is JSON, and which values it has.
func agree(t *testing.T, data []byte) {
	t.Helper()
	var d Decoder
	var raw Raw
	err := d.Decode(data, testTenant, testReceived, &raw)
	var invalid *ValidationError
	if err != nil && !errors.As(err, &invalid) {
		t.Fatalf("error %v is no ValidationError", err)
	}
	broken := invalid != nil && strings.HasPrefix(invalid.Faults[0].Rule, "is not valid JSON") && invalid.Faults[0].Field == fieldMessage
	empty := len(bytes.Trim(data, " \t\r\n")) == 0
	// Beyond 10000 levels encoding/json says no to valid JSON.
	if valid := json.Valid(data); valid == (broken || empty || bytes.HasPrefix(data, []byte("\xef\xbb\xbf"))) && bytes.Count(data, []byte("["))+bytes.Count(data, []byte("{")) < 10000 {
		t.Fatalf("encoding/json says valid %v, the decoder %v, of %q", valid, err, data)
	}
	if err != nil {
		return
	}
	var want reference
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&want); err != nil {
		t.Fatalf("accepted what encoding/json refuses with %v: %q", err, data)
	}
	for _, c := range []struct {
		got  []byte
		want *string
	}{
		{raw.ActorID, want.ActorID}, {raw.ActorType, want.ActorType}, {raw.Action, want.Action},
		{raw.ResourceType, want.ResourceType}, {raw.ResourceID, want.ResourceID}, {raw.Reasoning, want.Reasoning},
	} {
		if c.want == nil && c.got == nil {
			continue
		}
		if c.want == nil || string(c.got) != *c.want || !utf8.Valid(c.got) {
			t.Fatalf("text %q, encoding/json has %v, of %q", c.got, c.want, data)
		}
	}
	if raw.HasReasoning != (want.Reasoning != nil) || want.Metadata != nil && !bytes.Equal(raw.Metadata, want.Metadata) {
		t.Fatalf("reasoning %v, metadata %q, of %q", raw.HasReasoning, raw.Metadata, data)
	}
	if !strings.EqualFold(raw.ID.String(), *want.ID) {
		t.Fatalf("id %s, encoding/json has %s", raw.ID, *want.ID)
	}
	survives(t, &raw)
}

// survives fails unless the event encodes to a message that decodes to the same event, metadata byte for byte.
func survives(t *testing.T, raw *Raw) {
	t.Helper()
	first := raw.Event(testTenant)
	var again Raw
	var d Decoder
	message := first.append(nil)
	if err := d.Decode(message, testTenant, testReceived, &again); err != nil {
		t.Fatalf("encoded to %q, which is refused: %v", message, err)
	}
	second := again.Event(testTenant)
	if first.ID != second.ID || first.ActorID != second.ActorID || first.ActorType != second.ActorType || first.Action != second.Action ||
		first.ResourceType != second.ResourceType || first.ResourceID != second.ResourceID || !bytes.Equal(first.Metadata, second.Metadata) ||
		!first.CreatedAt.Equal(second.CreatedAt) || (first.Reasoning == nil) != (second.Reasoning == nil) ||
		first.Reasoning != nil && *first.Reasoning != *second.Reasoning {
		t.Fatalf("%+v came back as %+v", first, second)
	}
}

// generator writes messages of which most are valid, and most others nearly so.
type generator struct {
	r *rand.Rand
	b strings.Builder
}

func (g *generator) pick(choices ...string) string { return choices[g.r.IntN(len(choices))] }

func (g *generator) space() {
	if g.r.IntN(8) == 0 {
		g.b.WriteString(g.pick(" ", "\n", "\t", "\r\n", "  "))
	}
}

func (g *generator) text() {
	g.b.WriteByte('"')
	for range g.r.IntN(20) {
		g.b.WriteString(g.pick("a", "user_17", " ", "é", "日本", "😀", `\"`, `\\`, `\/`, `\n`, `\u0041`, `\u00e9`, `\ud83d\ude00`, "0123456789", "."))
		if g.r.IntN(300) == 0 {
			g.b.WriteString(g.pick("\xff", "\xc2", `\ud800`, `\u12`, `\x`, "\x01", "\x7f", "\u0085", `"`))
		}
	}
	g.b.WriteByte('"')
}

func (g *generator) value(depth int) {
	g.space()
	switch n := g.r.IntN(10); {
	case n < 2 && depth < 5:
		g.object(depth+1, func() (string, func()) { return "", func() { g.value(depth + 1) } }, g.r.IntN(4))
	case n < 4 && depth < 5:
		g.b.WriteByte('[')
		for i := range g.r.IntN(4) {
			if i > 0 {
				g.b.WriteByte(',')
			}
			g.value(depth + 1)
		}
		g.b.WriteByte(']')
	case n < 7:
		g.b.WriteString(g.pick("0", "-0", "1.0", "12345678901234567890", "-1.5e10", "1E+2", "0.1e-7", "true", "false", "null"))
		if g.r.IntN(300) == 0 {
			g.b.WriteString(g.pick("1", ".", "e", "x", "-"))
		}
	default:
		g.text()
	}
	g.space()
}

// object writes n members; a member without a name gets a random one.
func (g *generator) object(depth int, member func() (name string, value func()), n int) {
	g.b.WriteByte('{')
	for i := range n {
		if i > 0 {
			g.b.WriteByte(',')
		}
		g.space()
		name, value := member()
		if name == "" {
			g.text()
		} else {
			g.b.WriteString(name)
		}
		g.space()
		g.b.WriteByte(':')
		g.space()
		value()
	}
	g.space()
	g.b.WriteByte('}')
}

func (g *generator) message() []byte {
	g.b.Reset()
	names := []string{"id", "actor_id", "actor_type", "action", "resource_type", "resource_id", "created_at", "metadata", "reasoning"}
	g.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	i := 0
	g.space()
	g.object(0, func() (string, func()) {
		name := names[i]
		i++
		return `"` + name + `"`, func() { g.field(name) }
	}, len(names))
	data := []byte(g.b.String())
	if g.r.IntN(4) == 0 { // break one byte
		const bytes = "\"{}[]:,\\0e-. \x00\xff"
		data[g.r.IntN(len(data))] = bytes[g.r.IntN(len(bytes))]
	}
	return data
}

func (g *generator) field(name string) {
	switch name {
	case "id":
		g.b.WriteString(g.pick(`"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69"`, `"C232AB00-9414-11EC-B3C8-9F6BDECED846"`))
	case "created_at":
		g.b.WriteString(g.pick(`"2026-11-23T01:02:03Z"`, `"2026-11-23t01:02:03.123456789+01:30"`, `"1970-01-01T00:00:00z"`))
	case "metadata":
		g.object(0, func() (string, func()) { return "", func() { g.value(0) } }, g.r.IntN(5))
	case "reasoning":
		g.text()
	default:
		g.b.WriteString(g.pick(`"x"`, `"user_17"`, `"日本 é"`, `"a\u00e9\"b"`, `"0123456789012345678901234567890123456789"`))
	}
}

func TestDecodeAgreesWithEncodingJSON(t *testing.T) {
	g := generator{r: rand.New(rand.NewPCG(3, 4))}
	accepted := 0
	const messages = 30000
	for range messages {
		data := g.message()
		agree(t, data)
		var d Decoder
		if d.Decode(data, testTenant, testReceived, &Raw{}) == nil {
			accepted++
		}
	}
	if accepted < messages/2 || accepted > messages*9/10 {
		t.Errorf("%d of %d messages were valid: the generator tests one side only", accepted, messages)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(typicalMessage))
	f.Add([]byte(with("metadata", `"metadata":{"a":[1.0,{"b":"\ud800"}],"a":null}`)))
	f.Add([]byte(with("actor_id", `"actor_id":"\ud83d\ude00"`)))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		agree(t, data)
		if !bytes.Equal(before, data) {
			t.Fatal("the decoder changed the message")
		}
	})
}

func FuzzParseLogSubject(f *testing.F) {
	f.Add(LogSubject(7, testTenant))
	f.Fuzz(func(t *testing.T, subject string) {
		partition, tenant, err := ParseLogSubject(subject)
		if err == nil && LogSubject(partition, tenant) != subject {
			t.Fatalf("%q is read as %d and %s", subject, partition, tenant)
		}
	})
}
