package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

var (
	tenant = uuid.MustParse("11111111-2222-4333-8444-555555555555")
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)
	secret = bytes.Repeat([]byte{7}, SecretBytes)
)

func cursors(t testing.TB, secret []byte) *Cursors {
	t.Helper()
	c, err := NewCursors(secret)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Ensure a cursor keeps its meaning for ever: changing this text breaks the cursors that readers have stored.
func TestCursorGolden(t *testing.T) {
	f := Filter{ActorIDs: []string{"a", "b"}, From: noon}
	p := Position{CreatedAt: noon, ID: uuid.MustParse("01937b7e-0000-7000-8000-000000000001")}
	const want = "AezYt9F9tI7uqb-6ci-f13moaS-Ar5IyGZgWQROUrtHwVeJhI9hDAzA"
	c := cursors(t, secret)
	if got := c.Encode(tenant, &f, p); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, err := c.Decode(want, tenant, &f); err != nil || got != p {
		t.Errorf("got %v, %v", got, err)
	}
}

// Ensure any position survives, with its tenant and filters, in whatever order the filters' values came.
func TestCursorRoundTrip(t *testing.T) {
	c := cursors(t, secret)
	rapid.Check(t, func(t *rapid.T) {
		f := drawFilter(t)
		p := Position{CreatedAt: time.UnixMicro(rapid.Int64Range(0, 1<<53).Draw(t, "time")).UTC(), ID: drawUUID(t)}
		tenant := drawUUID(t)
		text := c.Encode(tenant, &f, p)
		again := Filter{ActorIDs: append(reversed(f.ActorIDs), f.ActorIDs...), ResourceTypes: reversed(f.ResourceTypes),
			ResourceIDs: reversed(f.ResourceIDs), Actions: reversed(f.Actions), From: f.From.In(time.FixedZone("", 3600)), To: f.To}
		again.Normalize()
		if got, err := c.Decode(text, tenant, &again); err != nil || got != p {
			t.Fatalf("got %v, %v, want %v", got, err, p)
		}
		if _, err := c.Decode(text, drawUUID(t), &f); !errors.Is(err, ErrCursor) {
			t.Fatalf("another tenant: %v", err)
		}
	})
}

func drawFilter(t *rapid.T) Filter {
	values := rapid.SliceOfN(rapid.StringN(1, 8, 32), 0, 3)
	f := Filter{ActorIDs: values.Draw(t, "actors"), ResourceTypes: values.Draw(t, "types"), ResourceIDs: values.Draw(t, "ids"), Actions: values.Draw(t, "actions")}
	if rapid.Bool().Draw(t, "bounded") {
		f.From = time.Unix(0, rapid.Int64Range(1, 1<<60).Draw(t, "from"))
	}
	f.Normalize()
	return f
}

func drawUUID(t *rapid.T) uuid.UUID {
	return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
}

func reversed(in []string) []string {
	out := make([]string, 0, len(in))
	for i := len(in) - 1; i >= 0; i-- {
		out = append(out, in[i])
	}
	return out
}

// Ensure a cursor holds for its own question alone. Values that run together must not look alike.
func TestCursorIsBound(t *testing.T) {
	c := cursors(t, secret)
	base := Filter{ActorIDs: []string{"ab", "c"}, From: noon, To: noon.Add(time.Hour)}
	text := c.Encode(tenant, &base, Position{CreatedAt: noon, ID: tenant})
	for name, f := range map[string]Filter{
		"None":         {},
		"OtherSplit":   {ActorIDs: []string{"a", "bc"}, From: base.From, To: base.To},
		"OneValue":     {ActorIDs: []string{"abc"}, From: base.From, To: base.To},
		"Fewer":        {ActorIDs: []string{"ab"}, From: base.From, To: base.To},
		"OtherField":   {Actions: []string{"ab", "c"}, From: base.From, To: base.To},
		"SpreadFields": {ActorIDs: []string{"ab"}, Actions: []string{"c"}, From: base.From, To: base.To},
		"NoFrom":       {ActorIDs: base.ActorIDs, To: base.To},
		"NoTo":         {ActorIDs: base.ActorIDs, From: base.From},
		"OtherFrom":    {ActorIDs: base.ActorIDs, From: base.From.Add(time.Microsecond), To: base.To},
		"OtherTo":      {ActorIDs: base.ActorIDs, From: base.From, To: base.To.Add(-time.Microsecond)},
		"Swapped":      {ActorIDs: base.ActorIDs, From: base.To, To: base.From},
	} {
		if _, err := c.Decode(text, tenant, &f); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cursors(t, bytes.Repeat([]byte{8}, SecretBytes)).Decode(text, tenant, &base); !errors.Is(err, ErrCursor) {
		t.Errorf("another secret: %v", err)
	}
}

// Ensure no change of a cursor, nor anything else, passes for one.
func TestCursorForgery(t *testing.T) {
	c := cursors(t, secret)
	text := c.Encode(tenant, &Filter{}, Position{CreatedAt: noon, ID: tenant})
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(raw) * 8 {
		forged := bytes.Clone(raw)
		forged[bit/8] ^= 1 << (bit % 8)
		if _, err := c.Decode(base64.RawURLEncoding.EncodeToString(forged), tenant, &Filter{}); !errors.Is(err, ErrCursor) {
			t.Errorf("bit %d changed: %v", bit, err)
		}
	}
	for n := range text {
		if _, err := c.Decode(text[:n], tenant, &Filter{}); !errors.Is(err, ErrCursor) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	for _, s := range []string{text + "=", text + "A", "A" + text, " " + text, text[:len(text)-1] + "\n", text[:len(text)-1] + "/"} {
		if _, err := c.Decode(s, tenant, &Filter{}); !errors.Is(err, ErrCursor) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Ensure a short secret is refused rather than used.
func TestShortSecret(t *testing.T) {
	if _, err := NewCursors(secret[1:]); err == nil {
		t.Error("accepted")
	}
}

// Ensure nothing but a text that Encode made decodes, and that it encodes to the same text again.
func FuzzCursorDecode(f *testing.F) {
	c := cursors(f, secret)
	f.Add(c.Encode(tenant, &Filter{}, Position{CreatedAt: noon, ID: tenant}))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := c.Decode(text, tenant, &Filter{})
		if err != nil {
			if !errors.Is(err, ErrCursor) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if again := c.Encode(tenant, &Filter{}, p); again != text {
			t.Fatalf("%q decodes to %v, which is %q", text, p, again)
		}
	})
}

// Ensure bounds are brought to the microsecond the way half-open bounds demand, and into the range of the store.
func TestNormalize(t *testing.T) {
	for name, c := range map[string]struct{ in, want time.Time }{
		"Exact":  {noon, noon},
		"Finer":  {noon.Add(1), noon.Add(time.Microsecond)},
		"Almost": {noon.Add(999), noon.Add(time.Microsecond)},
		"Absent": {time.Time{}, time.Time{}},
		"Year0":  {time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), earliest},
		"1969":   {time.Unix(-1, 999_999_999), earliest},
		"9999":   {time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), latest},
		"Offset": {noon.In(time.FixedZone("", -3600)), noon},
	} {
		f := Filter{From: c.in, To: c.in}
		f.Normalize()
		if f.From != c.want || f.To != c.want {
			t.Errorf("%s: %s and %s, want %s", name, f.From, f.To, c.want)
		}
	}
}
