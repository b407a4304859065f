package events

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

var (
	testTenant   = uuid.MustParse("01937b7e-0000-7000-8000-0000000000aa")
	testReceived = time.Date(2026, 11, 23, 1, 2, 4, 0, time.UTC)
)

const typicalMessage = `{"id":"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69","actor_id":"user_17","actor_type":"user","action":"invoice.approve","resource_type":"invoice","resource_id":"inv_42_2026_11","metadata":{"ip":"203.0.113.9","amount":1234.50,"currency":"EUR","approved":true,"session":"c2f1b7d0e4","user_agent":"Mozilla/5.0 (X11; Linux x86_64)"},"reasoning":"within the delegated limit of the department","created_at":"2026-11-23T01:02:03.123456Z"}`

// fields is a valid message as a list of its members, for tests that change one of them.
var fields = []string{
	`"id":"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69"`, `"actor_id":"user_17"`, `"actor_type":"user"`, `"action":"invoice.approve"`,
	`"resource_type":"invoice"`, `"resource_id":"inv_42"`, `"metadata":{}`, `"reasoning":"why"`, `"created_at":"2026-11-23T01:02:03Z"`,
}

// with returns the message in which the field of that name has this member, or is left out when member is empty.
func with(field, member string) string {
	list := slices.Clone(fields)
	list = slices.DeleteFunc(list, func(f string) bool { return strings.HasPrefix(f, `"`+field+`":`) })
	if member != "" {
		list = append(list, member)
	}
	return "{" + strings.Join(list, ",") + "}"
}

// decodeFaults decodes data and returns the faults as text, nil when it is valid.
func decodeFaults(t *testing.T, data string) []string {
	t.Helper()
	var d Decoder
	var raw Raw
	err := d.Decode([]byte(data), testTenant, testReceived, &raw)
	if err == nil {
		return nil
	}
	var invalid *ValidationError
	if !errors.As(err, &invalid) || len(invalid.Faults) == 0 {
		t.Fatalf("error %v is no ValidationError with faults", err)
	}
	var list []string
	for _, f := range invalid.Faults {
		list = append(list, f.String())
	}
	return list
}

func TestDecodeTypical(t *testing.T) {
	var d Decoder
	var raw Raw
	if err := d.Decode([]byte(typicalMessage), testTenant, testReceived, &raw); err != nil {
		t.Fatal(err)
	}
	e := raw.Event(testTenant)
	if e.ID.String() != "01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69" || e.ActorID != "user_17" || e.ActorType != "user" ||
		e.Action != "invoice.approve" || e.ResourceType != "invoice" || e.ResourceID != "inv_42_2026_11" ||
		e.Reasoning == nil || *e.Reasoning != "within the delegated limit of the department" ||
		!e.CreatedAt.Equal(time.Date(2026, 11, 23, 1, 2, 3, 123456000, time.UTC)) || !strings.HasPrefix(string(e.Metadata), `{"ip":"203.0.113.9","amount":1234.50,`) {
		t.Errorf("decoded %+v", e)
	}
}

func TestDecodeAbsent(t *testing.T) {
	var d Decoder
	raw := Raw{Reasoning: []byte("of the event before"), HasReasoning: true}
	list := slices.DeleteFunc(slices.Clone(fields), func(f string) bool {
		return strings.HasPrefix(f, `"metadata"`) || strings.HasPrefix(f, `"reasoning"`)
	})
	if err := d.Decode([]byte("{"+strings.Join(list, ",")+"}"), testTenant, testReceived, &raw); err != nil {
		t.Fatal(err)
	}
	if raw.HasReasoning || raw.Reasoning != nil || string(raw.Metadata) != "{}" {
		t.Errorf("reasoning %v %q, metadata %q", raw.HasReasoning, raw.Reasoning, raw.Metadata)
	}
}

func TestDecodeOneField(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	text := func(rule string) []string { return []string{"actor_id: " + rule} }
	meta := func(n int) string { return `"metadata":{"a":"` + long(n-len(`{"a":""}`)) + `"}` }
	deep := func(n int) string {
		return `"metadata":{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	at := func(s string) string { return `"created_at":"` + s + `"` }
	for name, c := range map[string]struct {
		field, member string
		want          []string
	}{
		"text missing":           {"actor_id", "", text("is missing")},
		"text empty":             {"actor_id", `"actor_id":""`, text("is empty")},
		"text 1":                 {"actor_id", `"actor_id":"x"`, nil},
		"text 255":               {"actor_id", `"actor_id":"` + long(255) + `"`, nil},
		"text 256":               {"actor_id", `"actor_id":"` + long(256) + `"`, nil},
		"text 257":               {"actor_id", `"actor_id":"` + long(257) + `"`, text("is 257 bytes, more than 256")},
		"text 256 of UTF-8":      {"actor_id", `"actor_id":"` + strings.Repeat("é", 128) + `"`, nil},
		"text 258 of UTF-8":      {"actor_id", `"actor_id":"` + strings.Repeat("é", 129) + `"`, text("is 258 bytes, more than 256")},
		"text 256 escaped":       {"actor_id", `"actor_id":"` + strings.Repeat(`\u0041`, 256) + `"`, nil},
		"text 257 escaped":       {"actor_id", `"actor_id":"` + strings.Repeat(`\u0041`, 257) + `"`, text("is 257 bytes, more than 256")},
		"text newline":           {"actor_id", `"actor_id":"a\nb"`, text("has a control character")},
		"text U+0000":            {"actor_id", `"actor_id":"\u0000"`, text("has a control character")},
		"text U+001F":            {"actor_id", `"actor_id":"\u001f"`, text("has a control character")},
		"text space":             {"actor_id", `"actor_id":" "`, nil},
		"text U+007E":            {"actor_id", `"actor_id":"~"`, nil},
		"text U+007F":            {"actor_id", "\"actor_id\":\"a\x7f\"", text("has a control character")},
		"text U+007F escaped":    {"actor_id", `"actor_id":"\u007F"`, text("has a control character")},
		"text U+0080":            {"actor_id", "\"actor_id\":\"\u0080\"", text("has a control character")},
		"text U+009F":            {"actor_id", "\"actor_id\":\"a\u009fb\"", text("has a control character")},
		"text U+009F escaped":    {"actor_id", `"actor_id":"\u009f"`, text("has a control character")},
		"text U+00A0":            {"actor_id", "\"actor_id\":\"\u00a0\"", nil},
		"text U+2028":            {"actor_id", "\"actor_id\":\"\u2028\"", nil},
		"text invalid UTF-8":     {"actor_id", "\"actor_id\":\"abcdefgh\xff\"", text("is not valid UTF-8")},
		"text overlong UTF-8":    {"actor_id", "\"actor_id\":\"\xc0\xaf\"", text("is not valid UTF-8")},
		"text surrogate UTF-8":   {"actor_id", "\"actor_id\":\"\xed\xa0\x80\"", text("is not valid UTF-8")},
		"text cut UTF-8":         {"actor_id", "\"actor_id\":\"\xc2\"", text("is not valid UTF-8")},
		"text lone surrogate":    {"actor_id", `"actor_id":"\ud83d"`, text(ruleSurrogate)},
		"text low surrogate":     {"actor_id", `"actor_id":"\ude00\ud83d"`, text(ruleSurrogate)},
		"text surrogate, letter": {"actor_id", `"actor_id":"\ud83d\u0041"`, text(ruleSurrogate)},
		"text pair":              {"actor_id", `"actor_id":"\ud83d\ude00"`, nil},
		"text number":            {"actor_id", `"actor_id":17`, text("must be a string, not a number")},
		"text null":              {"actor_id", `"actor_id":null`, text("must be a string, not null")},
		"text object":            {"actor_id", `"actor_id":{}`, text("must be a string, not an object")},
		"text array":             {"actor_id", `"actor_id":["a"]`, text("must be a string, not an array")},
		"text boolean":           {"actor_id", `"actor_id":true`, text("must be a string, not a boolean")},
		"text twice":             {"actor_id", `"actor_id":"a","actor_id":"a"`, text("is there more than once")},
		"text twice by escape":   {"actor_id", `"actor_id":"a","\u0061ctor_id":"a"`, text("is there more than once")},
		"name escaped":           {"actor_id", `"\u0061ctor_id":"a"`, nil},
		"name in upper case":     {"actor_id", `"Actor_ID":"a"`, []string{"Actor_ID: is not a field of an event", "actor_id: is missing"}},
		"unknown":                {"", `"foo":[{"a":[1,2]},null]`, []string{"foo: is not a field of an event"}},
		"unknown, empty name":    {"", `"":1`, []string{`"": is not a field of an event`}},
		"unknown, hostile name":  {"", `"a\r\nb":1`, []string{`"a\r\nb": is not a field of an event`}},
		"unknown, long name":     {"", `"` + long(65) + `":1`, []string{long(64) + "...: is not a field of an event"}},

		"id missing":       {"id", "", []string{"id: is missing"}},
		"id upper case":    {"id", `"id":"01937B7E-2F3A-7C11-9B1E-5A2D3C4B5A69"`, nil},
		"id version 1":     {"id", `"id":"c232ab00-9414-11ec-b3c8-9f6bdeced846"`, nil},
		"id nil":           {"id", `"id":"00000000-0000-0000-0000-000000000000"`, nil},
		"id max":           {"id", `"id":"ffffffff-ffff-ffff-ffff-ffffffffffff"`, nil},
		"id escaped":       {"id", `"id":"\u0030\u0031937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69"`, nil},
		"id without lines": {"id", `"id":"01937b7e2f3a7c119b1e5a2d3c4b5a69"`, []string{"id: " + ruleUUID}},
		"id in braces":     {"id", `"id":"{01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69}"`, []string{"id: " + ruleUUID}},
		"id as URN":        {"id", `"id":"urn:uuid:01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69"`, []string{"id: " + ruleUUID}},
		"id with g":        {"id", `"id":"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a6g"`, []string{"id: " + ruleUUID}},
		"id moved line":    {"id", `"id":"01937b7e2-f3a-7c11-9b1e-5a2d3c4b5a69"`, []string{"id: " + ruleUUID}},
		"id empty":         {"id", `"id":""`, []string{"id: " + ruleUUID}},

		"tenant":             {"", `"tenant_id":"01937b7e-0000-7000-8000-0000000000aa"`, nil},
		"tenant, upper case": {"", `"tenant_id":"01937B7E-0000-7000-8000-0000000000AA"`, nil},
		"tenant, other":      {"", `"tenant_id":"01937b7e-0000-7000-8000-0000000000ab"`, []string{"tenant_id: " + ruleMismatch}},
		"tenant, nil":        {"", `"tenant_id":"00000000-0000-0000-0000-000000000000"`, []string{"tenant_id: " + ruleMismatch}},
		"tenant, no UUID":    {"", `"tenant_id":"acme"`, []string{"tenant_id: " + ruleUUID}},
		"tenant, null":       {"", `"tenant_id":null`, []string{"tenant_id: must be a string, not null"}},

		"metadata null":              {"metadata", `"metadata":null`, []string{"metadata: must be a JSON object, not null"}},
		"metadata array":             {"metadata", `"metadata":[]`, []string{"metadata: must be a JSON object, not an array"}},
		"metadata string":            {"metadata", `"metadata":"{}"`, []string{"metadata: must be a JSON object, not a string"}},
		"metadata 65535":             {"metadata", meta(65535), nil},
		"metadata 65536":             {"metadata", meta(65536), nil},
		"metadata 65537":             {"metadata", meta(65537), []string{"metadata: is 65537 bytes, more than 65536"}},
		"metadata 511 deep":          {"metadata", deep(511), nil},
		"metadata 512 deep":          {"metadata", deep(512), nil},
		"metadata 513 deep":          {"metadata", deep(513), []string{"metadata: " + ruleTooDeep}},
		"metadata 20000 deep":        {"metadata", deep(20000), []string{"metadata: " + ruleTooDeep}},
		"metadata invalid UTF-8":     {"metadata", "\"metadata\":{\"a\":\"\xff\"}", []string{"metadata: is not valid UTF-8"}},
		"metadata invalid name":      {"metadata", "\"metadata\":{\"\xff\":1}", []string{"metadata: is not valid UTF-8"}},
		"metadata twice":             {"metadata", `"metadata":{},"metadata":{}`, []string{"metadata: is there more than once"}},
		"metadata with repeated key": {"metadata", `"metadata":{"a":1,"a":2}`, nil},

		"reasoning empty":          {"reasoning", `"reasoning":""`, nil},
		"reasoning null":           {"reasoning", `"reasoning":null`, []string{"reasoning: must be a string, not null"}},
		"reasoning lines":          {"reasoning", `"reasoning":"a\n\tb\u0000c\u0085"`, nil},
		"reasoning 16383":          {"reasoning", `"reasoning":"` + long(16383) + `"`, nil},
		"reasoning 16384":          {"reasoning", `"reasoning":"` + long(16384) + `"`, nil},
		"reasoning 16385":          {"reasoning", `"reasoning":"` + long(16385) + `"`, []string{"reasoning: is 16385 bytes, more than 16384"}},
		"reasoning 16384 escaped":  {"reasoning", `"reasoning":"` + strings.Repeat(`\n`, 16384) + `"`, nil},
		"reasoning lone surrogate": {"reasoning", `"reasoning":"\udc00"`, []string{"reasoning: " + ruleSurrogate}},
		"reasoning invalid":        {"reasoning", "\"reasoning\":\"\xe2\x82\"", []string{"reasoning: is not valid UTF-8"}},

		"time missing":             {"created_at", "", []string{"created_at: is missing"}},
		"time number":              {"created_at", `"created_at":0`, []string{"created_at: must be a string, not a number"}},
		"time without offset":      {"created_at", at("2026-11-23T01:02:03"), []string{"created_at: " + ruleTimestamp}},
		"time 1970":                {"created_at", at("1970-01-01T00:00:00Z"), nil},
		"time 1 µs before 1970":    {"created_at", at("1969-12-31T23:59:59.999999Z"), []string{"created_at: is before 1970"}},
		"time 1970 elsewhere":      {"created_at", at("1970-01-01T00:30:00+01:00"), []string{"created_at: is before 1970"}},
		"time a day ahead - 1 µs":  {"created_at", at("2026-11-24T01:02:03.999999Z"), nil},
		"time a day ahead":         {"created_at", at("2026-11-24T01:02:04Z"), nil},
		"time a day ahead + 0.9µs": {"created_at", at("2026-11-24T01:02:04.0000009Z"), nil},
		"time a day ahead + 1 µs":  {"created_at", at("2026-11-24T01:02:04.000001Z"), []string{"created_at: " + ruleFuture}},
		"time 9999":                {"created_at", at("9999-12-31T23:59:59Z"), []string{"created_at: " + ruleFuture}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decodeFaults(t, with(c.field, c.member)); !slices.Equal(got, c.want) {
				t.Errorf("faults %q, want %q", got, c.want)
			}
		})
	}
}

func TestDecodeReportsEveryFault(t *testing.T) {
	got := decodeFaults(t, `{"id":"x","tenant_id":"01937b7e-0000-7000-8000-0000000000ab","actor_id":"","actor_type":7,"action":"a\u0000`+
		strings.Repeat("x", 256)+`","resource_type":"`+"\xff\x01"[:1]+`","metadata":[],"reasoning":null,"extra":1,"created_at":"yesterday"}`)
	want := []string{
		"id: " + ruleUUID, "actor_id: is empty", "actor_type: must be a string, not a number", "action: is 258 bytes, more than 256",
		"action: has a control character", "resource_type: is not valid UTF-8", "metadata: must be a JSON object, not an array",
		"reasoning: must be a string, not null", "extra: is not a field of an event", "created_at: " + ruleTimestamp,
		"resource_id: is missing", "tenant_id: " + ruleMismatch,
	}
	if !slices.Equal(got, want) {
		t.Errorf("faults\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDecodeBoundsTheReport(t *testing.T) {
	var b strings.Builder
	for range 1000 {
		b.WriteString(`"x":1,`)
	}
	var d Decoder
	var invalid *ValidationError
	err := d.Decode([]byte("{"+b.String()+`"y":1}`), testTenant, testReceived, &Raw{})
	if !errors.As(err, &invalid) || len(invalid.Faults) != maxFaults || len(invalid.Faults)+invalid.More != 1001+7 {
		t.Errorf("%d faults and %d more", len(invalid.Faults), invalid.More)
	}
}

func TestDecodeRefusesWhatIsNotJSON(t *testing.T) {
	valid := with("", "")
	for _, data := range []string{
		"", " ", "\xef\xbb\xbf" + valid, "[]", `"x"`, "null", "17", "nul", "{", "{,}", `{"id"}`, `{"id":}`, `{"id":1,}`, `{id:1}`, `{'id':1}`,
		valid + "x", valid + valid, valid + ",", valid[:len(valid)-1], valid[:len(valid)/2], "// c\n" + valid, valid + "\x00", "\x0b" + valid,
		strings.Replace(valid, ",", ",,", 1), strings.Replace(valid, ":", "::", 1), strings.Replace(valid, ":", " ", 1),
		with("metadata", "\"metadata\":{\"a\":\"\x01\"}"), with("actor_id", "\"actor_id\":\"a\nb\""),
	} {
		if got := decodeFaults(t, data); len(got) != 1 || !strings.HasPrefix(got[0], "message: ") {
			t.Errorf("%q: faults %q, want one of the message", data, got)
		}
	}
	for _, bad := range []string{
		"NaN", "Infinity", "-Infinity", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1.e1", "0x10", "1_000", "tru", "True", "nulll", "undefined",
		`"\x"`, `"\u12"`, `"\u123g"`, `"\U00000000"`, `"`, `"\`, `"\"`, "'a'", "[1,]", "[,1]", "[1 2]", "[", "]", "[}", "{]", `{"a":1,}`, `{"a"}`, `{1:2}`,
		"{}}", "[]]", `{"a":1 "b":2}`, "1 2", "\ufeff1", "\u00a01", "/**/1", "",
	} {
		if got := decodeFaults(t, with("metadata", `"metadata":{"v":`+bad+`}`)); len(got) != 1 || !strings.HasPrefix(got[0], "message: is not valid JSON: at byte ") {
			t.Errorf("value %q: faults %q, want one of the message", bad, got)
		}
	}
}

func TestDecodeKeepsMetadata(t *testing.T) {
	for _, metadata := range []string{
		"{}", "{ \t\r\n}", `{"z":1.0,"a":12345678901234567890,"e":1E+2,"m":-0,"n":null,"t":true,"f":false}`, `{"a":1,"a":{"a":[]}}`,
		`{"u":"\u00e9é\/\ud83d\ude00","lone":"\ud800","nul":"\u0000","del":"` + "\x7f" + `"}`, "{\n  \"a\" : [ 1 , { } ]\n}", `{"":""}`,
	} {
		var d Decoder
		var raw Raw
		if err := d.Decode([]byte(with("metadata", ` "metadata" : `+metadata+" ")), testTenant, testReceived, &raw); err != nil {
			t.Errorf("%s: %v", metadata, err)
		} else if string(raw.Metadata) != metadata {
			t.Errorf("metadata %q came back as %q", metadata, raw.Metadata)
		}
	}
}

func TestDecodeResolvesEscapes(t *testing.T) {
	var d Decoder
	var raw Raw
	message := with("reasoning", `"reasoning":"\"\\\/\b\f\n\r\t\u0000\u00e9\ud83d\ude00é"`)
	message = strings.Replace(message, `"user_17"`, `"\u0075ser"`, 1)
	for range 2 { // the second time with scratch memory that is there already
		if err := d.Decode([]byte(message), testTenant, testReceived, &raw); err != nil {
			t.Fatal(err)
		}
		if got, want := string(raw.Reasoning), "\"\\/\b\f\n\r\t\x00é😀é"; got != want || string(raw.ActorID) != "user" {
			t.Errorf("reasoning %q, want %q; actor %q", got, want, raw.ActorID)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	var d Decoder
	var raw Raw
	for _, data := range []string{typicalMessage, with("reasoning", `"reasoning":"a\nb – c"`)} {
		message := []byte(data)
		n := testing.AllocsPerRun(100, func() {
			if err := d.Decode(message, testTenant, testReceived, &raw); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations for %s", n, data)
		}
	}
}

func TestDecodeWithTenant(t *testing.T) {
	e, err := Decode([]byte(with("", `"tenant_id":"`+testTenant.String()+`"`)), testReceived)
	if err != nil || e.TenantID != testTenant || e.ActorID != "user_17" {
		t.Errorf("event %+v, error %v", e, err)
	}
	for data, want := range map[string]string{
		with("", ""): "tenant_id: is missing",
		with("", `"tenant_id":"00000000-0000-0000-0000-000000000000"`):                                  "tenant_id: is missing",
		with("id", `"id":"00000000-0000-0000-0000-000000000000","tenant_id":"`+testTenant.String()+`"`): "id: is missing",
	} {
		if _, err := Decode([]byte(data), testReceived); err == nil || err.Error() != "invalid event: "+want {
			t.Errorf("%s: %v, want %s", data, err, want)
		}
	}
	if _, err := Decode([]byte(`{`), testReceived); err == nil || strings.Contains(err.Error(), "tenant") {
		t.Errorf("broken JSON: %v, want the syntax error alone", err)
	}
}

func TestEncodeGolden(t *testing.T) {
	why := "a \"b\"\n\x00 é <&> \u2028"
	e := Event{
		ID: uuid.MustParse("01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69"), TenantID: testTenant, ActorID: "user_17", ActorType: "user", Action: `a\b`,
		ResourceType: "invoice", ResourceID: "inv_42", Metadata: json.RawMessage(`{ "n" : 1.0 }`), Reasoning: &why,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6999, time.FixedZone("", 3600)),
	}
	want := `{"id":"01937b7e-2f3a-7c11-9b1e-5a2d3c4b5a69","actor_id":"user_17","actor_type":"user","action":"a\\b","resource_type":"invoice",` +
		`"resource_id":"inv_42","metadata":{ "n" : 1.0 },"reasoning":"a \"b\"\u000a\u0000 é <&> ` + "\u2028" + `","created_at":"2026-01-02T02:04:05.000006Z"}`
	got, err := e.Encode()
	if err != nil || string(got) != want {
		t.Errorf("encoded %s, error %v; want %s", got, err, want)
	}
	e.Metadata, e.Reasoning = nil, nil
	if got, err := e.Encode(); err != nil || strings.Contains(string(got), "metadata") || strings.Contains(string(got), "reasoning") {
		t.Errorf("encoded %s, error %v; want neither metadata nor reasoning", got, err)
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	why := "\xff" + strings.Repeat("x", MaxReasoningBytes)
	e := Event{Action: strings.Repeat("x", 257), ActorID: "a\u0085", ActorType: "\xff", ResourceType: "ok", Metadata: json.RawMessage(`[1]`),
		Reasoning: &why, CreatedAt: time.Now().Add(MaxFuture + time.Minute)}
	want := "invalid event: id: is missing; tenant_id: is missing; actor_id: has a control character; actor_type: is not valid UTF-8; " +
		"action: is 257 bytes, more than 256; resource_id: is empty; metadata: must be a JSON object, not an array; " +
		"reasoning: is 16385 bytes, more than 16384; reasoning: is not valid UTF-8; created_at: " + ruleFuture
	if err := e.Validate(); err == nil || err.Error() != want {
		t.Errorf("error\n%v\nwant\n%s", err, want)
	}
	for metadata, fault := range map[string]string{
		`{"a":1} x`: "is not valid JSON: at byte 8", `{`: "is not valid JSON", "{\"a\":\"\xff\"}": ruleUTF8, `null`: ruleNotObject, " ": "is not valid JSON",
	} {
		var f faults
		if f.metadata([]byte(metadata)); len(f.list) != 1 || !strings.HasPrefix(f.list[0].Rule, fault) {
			t.Errorf("metadata %q: %v, want %s", metadata, f.list, fault)
		}
	}
	for _, at := range []time.Time{time.Unix(-1, 0), time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-300000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		e := Event{CreatedAt: at}
		if err := e.Validate(); err == nil || !strings.Contains(err.Error(), "created_at: is ") {
			t.Errorf("created at %s: %v", at, err)
		}
	}
}

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

func BenchmarkEncode(b *testing.B) {
	e, err := Decode([]byte(typicalMessage[:len(typicalMessage)-1]+`,"tenant_id":"`+testTenant.String()+`"}`), testReceived)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
