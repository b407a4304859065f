package erasure_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/erasure"
	"example.com/auditlog/services/ingester/internal/ledger"
)

// Ensure the values of the fields go, wherever they stand and however they and their keys are written, and that every other byte stays.
func TestStrip(t *testing.T) {
	fields := erasure.FieldSet([]string{"email", "ip", "näme", "a\"b", "x/y", "😀", ""})
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{`{"email":"a@b.c"}`, `{"email":null}`},
		{`{ "email" : "a\"},{\\" , "n":1.0 }`, `{ "email" : null , "n":1.0 }`},
		{`{"email":{"a":["}",{"ip":1}],"b":{}},"n":12345678901234567890}`, `{"email":null,"n":12345678901234567890}`},
		{`{"email":[1,[2,"]"]] ,"n":-1.50e+3}`, `{"email":null ,"n":-1.50e+3}`},
		{`{"u":{"v":[{"ip":"1.2.3.4","k":"email"}]},"email2":"stays"}`, `{"u":{"v":[{"ip":null,"k":"email"}]},"email2":"stays"}`},
		{`{"email":1,"email":2,"e":3}`, `{"email":null,"email":null,"e":3}`},
		{`{"\u0065mai\u006C":true,"n":"\u0065"}`, `{"\u0065mai\u006C":null,"n":"\u0065"}`},
		{`{"n\u00e4me":1,"näme":2}`, `{"n\u00e4me":null,"näme":null}`},
		{`{"a\"b":1,"a":"\"email\":1","x\/y":2,"\ud83d\ude00":3,"😀":4,"":5}`, `{"a\"b":null,"a":"\"email\":1","x\/y":null,"\ud83d\ude00":null,"😀":null,"":null}`},
		{`{"a":"email","b":["email",":","ip"]}`, `{"a":"email","b":["email",":","ip"]}`},
		{`{"email":null,"Email":"stays","ip":false}`, `{"email":null,"Email":"stays","ip":null}`},
		{"{\"ip\"\n:\t7\r}", "{\"ip\"\n:\tnull\r}"},
		{`{"ip":1}`, `{"ip":null}`},
	} {
		got, changed := fields.Strip([]byte(c.in))
		if string(got) != c.want || changed != (c.in != c.want) || !json.Valid(got) {
			t.Errorf("%s: %s, changed %t, want %s", c.in, got, changed, c.want)
		}
		if again, changed := fields.Strip(got); string(again) != c.want || changed {
			t.Errorf("%s once more: %s", c.want, again)
		}
	}
}

// Ensure what is left of any object is valid, has the same keys in the same order, and no value of a field, as a library reads it.
func FuzzStrip(f *testing.F) {
	for _, s := range []string{`{"email":"x","a":[{"email":{"b":1}},2]}`, `{"\u0065mail":[],"e":"\\"}`, `{"a":{"email": -1e5 }}`} {
		f.Add(s)
	}
	fields := erasure.FieldSet([]string{"email"})
	f.Fuzz(func(t *testing.T, in string) {
		if !strings.HasPrefix(in, "{") {
			return
		}
		var before, after any
		if json.Unmarshal([]byte(in), &before) != nil {
			return // no metadata is such
		}
		got, changed := fields.Strip([]byte(in))
		if err := json.Unmarshal(got, &after); err != nil {
			t.Fatalf("%s became %s: %v", in, got, err)
		}
		want, have := blank(before), after
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(have)
		if string(a) != string(b) || !changed && string(got) != in {
			t.Errorf("%s became %s", in, got)
		}
	})
}

// blank is what Strip does, by a library, which keeps the last of repeated keys.
func blank(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			if v[k] = blank(v[k]); k == "email" {
				v[k] = nil
			}
		}
	case []any:
		for i := range v {
			v[i] = blank(v[i])
		}
	}
	return v
}

var ann, ben = uuid.MustParse("11111111-2222-4333-8444-555555555550"), uuid.MustParse("11111111-2222-4333-8444-555555555551")

// set is one in which user_17 of ann is erased.
func set() *erasure.Set {
	salt := erasure.NewSalt()
	return erasure.Of(control.After(control.Record{Seq: 1, Decision: control.Decision{Kind: control.Erased, Tenant: &ann, Erase: &control.Erase{
		Pseudonym: "erased-1", Salt: ledger.Digest(salt), ActorHash: ledger.Digest(erasure.Hash(salt, "user_17")),
		EraseRule: control.EraseRule{Fields: []string{"ip"}, ResourceTypes: []string{"user"}},
	}}}))
}

// Ensure an event is changed where it tells of the person, and no event of another tenant, actor or type of resource is.
func TestApply(t *testing.T) {
	s := set()
	for _, c := range []struct {
		tenant                uuid.UUID
		actor, typ, id        string
		wantActor, wantID, md string
	}{
		{ann, "user_17", "invoice", "user_17", "erased-1", "user_17", `{"ip":null}`},
		{ann, "user_17", "user", "user_17", "erased-1", "erased-1", `{"ip":null}`},
		{ann, "user_18", "user", "user_17", "user_18", "erased-1", `{"ip":null}`},
		{ann, "user_18", "user", "user_18", "user_18", "user_18", `{"ip":1}`},
		{ann, "user_1", "user", "user_1", "user_1", "user_1", `{"ip":1}`},
		{ann, "user_17 ", "user", "User_17", "user_17 ", "User_17", `{"ip":1}`},
		{ben, "user_17", "user", "user_17", "user_17", "user_17", `{"ip":1}`},
	} {
		metadata := []byte(`{"ip":1}`)
		ev := events.Raw{ActorID: []byte(c.actor), ResourceType: []byte(c.typ), ResourceID: []byte(c.id), Metadata: metadata}
		out := s.Apply(c.tenant, &ev)
		if string(ev.ActorID) != c.wantActor || string(ev.ResourceID) != c.wantID || string(ev.Metadata) != c.md || out.Changed != (c.md != `{"ip":1}`) || out.Changed != out.Open {
			t.Errorf("%+v: %s %s %s %+v", c, ev.ActorID, ev.ResourceID, ev.Metadata, out)
		}
		if string(metadata) != `{"ip":1}` {
			t.Fatal("the message itself was written to")
		}
	}
}

// Ensure nobody pays for erasures who has none, and no event costs memory for being looked at.
func TestApplyAllocates(t *testing.T) {
	var live erasure.Live
	live.Store(set())
	ev := events.Raw{ActorID: []byte("user_18"), ResourceType: []byte("user"), ResourceID: []byte("user_19"), Metadata: []byte(`{"ip":1}`)}
	for _, tenant := range []uuid.UUID{ann, ben} {
		if n := testing.AllocsPerRun(100, func() { live.Apply(tenant, &ev) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	ev := events.Raw{ActorID: []byte("user_18"), ResourceType: []byte("invoice"), ResourceID: []byte("inv_19"), Metadata: []byte(`{"ip":1}`)}
	for name, c := range map[string]struct {
		set    *erasure.Set
		tenant uuid.UUID
	}{"none": {nil, ann}, "of another tenant": {set(), ben}, "of the tenant": {set(), ann}} {
		b.Run(name, func(b *testing.B) {
			var live erasure.Live
			live.Store(c.set)
			for b.Loop() {
				live.Apply(c.tenant, &ev)
			}
		})
	}
}
