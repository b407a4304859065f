package httpapi

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// Ensure any text becomes a JSON string that means the same.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", `"\/`, "\x00\x1f\x7f\n\r\t\b\f", "é💡\u2028\ufeff", "\xff\xfe", "a\xed\xa0\x80b", "<&>", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := appendString([]byte("x"), s)[1:]
		var got string
		if err := json.Unmarshal(out, &got); err != nil || !utf8.Valid(out) {
			t.Fatalf("%q: %s: %v", s, out, err)
		}
		want := ""
		for _, r := range s { // what is not UTF-8 counts as U+FFFD, byte by byte
			want += string(r)
		}
		if got != want {
			t.Fatalf("%q: %s means %q", s, out, got)
		}
	})
}

// Ensure no query string makes the parser fail, and that what it takes obeys the rules.
func FuzzParseList(f *testing.F) {
	for _, s := range []string{"", "limit=5", "a=%zz&b", "from=2026-11-23T01:02:03Z&to=2026-11-23T01:02:03Z", "actor_id=a&actor_id=b&;", "%00=%ff&cursor=x", "&&=&=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, faults := parseList(raw)
		for _, x := range faults {
			if !utf8.ValidString(x.Parameter) || x.Message == "" {
				t.Fatalf("%q: fault %+v", raw, x)
			}
		}
		if len(faults) == 0 && (p.limit < 1 || p.limit > 1000 || len(p.filter.ActorIDs) > 20) {
			t.Fatalf("%q: %+v", raw, p)
		}
	})
}
