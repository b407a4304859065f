package app_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/query/app"
)

type errorBody struct {
	Code    string
	Message string
	Details []struct{ Parameter, Message string }
	Notices []string
}

// exchange is a request with everything a test may want to get wrong.
type exchange struct {
	method, path string
	header       http.Header
}

func (s *system) do(t *testing.T, x exchange) (answer, string) {
	t.Helper()
	if x.method == "" {
		x.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(t.Context(), x.method, "http://"+s.Addr(), nil)
	must(t, err)
	path, query, _ := strings.Cut(x.path, "?")
	req.URL.Opaque = "//" + s.Addr() + path // exactly as written
	req.URL.RawQuery = query
	if u, err := url.PathUnescape(path); err == nil {
		req.URL.Path = u
	}
	req.Header = x.header
	res, err := s.client.Do(req)
	must(t, err)
	body, err := io.ReadAll(res.Body)
	must(t, err)
	must(t, res.Body.Close())
	return answerOf(res), string(body)
}

// hostileFixture is a service with two tenants' rows and keys.
type hostileFixture struct {
	*system
	ours, theirs uuid.UUID
	key, foreign app.CreatedKey
	header       http.Header
	cursor       string // of ours, without filters
	foreignEvent uuid.UUID
}

func newHostile(t *testing.T) *hostileFixture {
	t.Helper()
	f := &hostileFixture{system: newSystem(t, shared, nil), ours: uuid.New(), theirs: uuid.New()}
	f.key, f.foreign = f.keyOf(t, f.ours), f.keyOf(t, f.theirs)
	for i := range 3 {
		foreign := newRow(f.theirs, november.Add(time.Duration(i)*time.Second))
		f.foreignEvent = foreign.id
		f.insert(t, newRow(f.ours, november.Add(time.Duration(i)*time.Second)), foreign)
	}
	f.header = http.Header{"X-Api-Key": {f.key.Key}, "X-Tenant-Id": {f.ours.String()}}
	_, body := f.get(t, f.key.Key, f.ours, "?limit=1")
	var page struct {
		NextCursor string `json:"next_cursor"`
	}
	must(t, json.Unmarshal([]byte(body), &page))
	f.cursor = page.NextCursor
	f.get(t, f.foreign.Key, f.theirs, "") // until it is known
	return f
}

func (f *hostileFixture) keyOf(t *testing.T, tenant uuid.UUID) app.CreatedKey {
	return f.system.key(t, app.KeySpec{Tenant: tenant})
}

// with is the good header with changes; no values remove a header.
func (f *hostileFixture) with(name string, values ...string) http.Header {
	h := f.header.Clone()
	delete(h, http.CanonicalHeaderKey(name))
	if len(values) > 0 {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h
}

// Ensure that no hostile request gets a row it must not have, or makes the service fail, and that each fault has its own answer.
func TestHostileRequests(t *testing.T) {
	f := newHostile(t)
	const list = "/v1/audit-log"
	long := strings.Repeat("x", 257)
	revoked := f.keyOf(t, f.ours)
	if code := app.Main(t.Context(), []string{"keys", "revoke", revoked.ID}, f.getenv, nil, io.Discard, io.Discard); code != 0 {
		t.Fatalf("revoke: exit status %d", code)
	}
	expired := f.system.key(t, app.KeySpec{Tenant: f.ours, Expires: time.Nanosecond})
	elsewhere := f.system.key(t, app.KeySpec{Tenant: f.ours, Sources: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	here := f.system.key(t, app.KeySpec{Tenant: f.ours, Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	f.get(t, here.Key, f.ours, "") // keys are known in the order in which they were made: so are those above
	other := strings.Replace(f.key.Key, "alk_", "alk-", 1)
	flipped := []byte(f.cursor)
	flipped[20] ^= 1
	for name, c := range map[string]struct {
		x      exchange
		status int
		code   string
		fault  string // the parameter that details must name
	}{
		"NoRoute":          {exchange{path: "/"}, 404, "not_found", ""},
		"NoRouteNoKey":     {exchange{path: "/v1/nothing", header: http.Header{}}, 404, "not_found", ""},
		"TrailingSlash":    {exchange{path: list + "/"}, 404, "not_found", ""},
		"DoubleSlash":      {exchange{path: "//v1/audit-log"}, 404, "not_found", ""},
		"DotDot":           {exchange{path: "/v1/../v1/audit-log"}, 404, "not_found", ""},
		"EncodedDotDot":    {exchange{path: "/v1/audit-log/%2e%2e/audit-log"}, 404, "not_found", ""},
		"EncodedSlash":     {exchange{path: "/v1/audit-log%2F" + f.ours.String()}, 404, "not_found", ""},
		"Case":             {exchange{path: "/V1/audit-log"}, 404, "not_found", ""},
		"Post":             {exchange{method: "POST", path: list}, 405, "method_not_allowed", ""},
		"Delete":           {exchange{method: "DELETE", path: list, header: http.Header{}}, 405, "method_not_allowed", ""},
		"Options":          {exchange{method: "OPTIONS", path: list}, 405, "method_not_allowed", ""},
		"Trace":            {exchange{method: "TRACE", path: list}, 405, "method_not_allowed", ""},
		"NoKey":            {exchange{path: list, header: f.with("X-Api-Key")}, 401, "unauthenticated", ""},
		"EmptyKey":         {exchange{path: list, header: f.with("X-Api-Key", "")}, 401, "unauthenticated", ""},
		"TwoKeys":          {exchange{path: list, header: f.with("X-Api-Key", f.key.Key, f.key.Key)}, 401, "unauthenticated", ""},
		"KeyList":          {exchange{path: list, header: f.with("X-Api-Key", f.key.Key+","+f.foreign.Key)}, 401, "unauthenticated", ""},
		"MalformedKey":     {exchange{path: list, header: f.with("X-Api-Key", other)}, 401, "unauthenticated", ""},
		"RevokedKey":       {exchange{path: list, header: f.with("X-Api-Key", revoked.Key)}, 401, "unauthenticated", ""},
		"ExpiredKey":       {exchange{path: list, header: f.with("X-Api-Key", expired.Key)}, 401, "unauthenticated", ""},
		"KeyFromElsewhere": {exchange{path: list, header: f.with("X-Api-Key", elsewhere.Key)}, 401, "unauthenticated", ""},
		"ForgedSource":     {exchange{path: list, header: http.Header{"X-Api-Key": {elsewhere.Key}, "X-Tenant-Id": {f.ours.String()}, "X-Forwarded-For": {"203.0.113.9"}, "X-Real-Ip": {"203.0.113.9"}, "Forwarded": {"for=203.0.113.9"}}}, 401, "unauthenticated", ""},
		"KeyFromHere":      {exchange{path: list, header: f.with("X-Api-Key", here.Key)}, 200, "", ""},
		"LowerKey":         {exchange{path: list, header: f.with("X-Api-Key", strings.ToLower(f.key.Key))}, 401, "unauthenticated", ""},
		"HugeKey":          {exchange{path: list, header: f.with("X-Api-Key", strings.Repeat("k", 20_000))}, 401, "unauthenticated", ""},
		"KeyBeforeTenant":  {exchange{path: list + "?limit=0", header: http.Header{}}, 401, "unauthenticated", ""},
		"NoTenant":         {exchange{path: list, header: f.with("X-Tenant-Id")}, 400, "invalid_parameter", "X-Tenant-ID"},
		"TwoTenants":       {exchange{path: list, header: f.with("X-Tenant-Id", f.ours.String(), f.theirs.String())}, 400, "invalid_parameter", "X-Tenant-ID"},
		"BracedTenant":     {exchange{path: list, header: f.with("X-Tenant-Id", "{"+f.ours.String()+"}")}, 400, "invalid_parameter", "X-Tenant-ID"},
		"URNTenant":        {exchange{path: list, header: f.with("X-Tenant-Id", "urn:uuid:"+f.ours.String())}, 400, "invalid_parameter", "X-Tenant-ID"},
		"BareTenant":       {exchange{path: list, header: f.with("X-Tenant-Id", strings.ReplaceAll(f.ours.String(), "-", ""))}, 400, "invalid_parameter", "X-Tenant-ID"},
		"SQLTenant":        {exchange{path: list, header: f.with("X-Tenant-Id", "' OR 1=1 --")}, 400, "invalid_parameter", "X-Tenant-ID"},
		"OtherTenant":      {exchange{path: list, header: f.with("X-Tenant-Id", f.theirs.String())}, 403, "tenant_mismatch", ""},
		"AbsentTenant":     {exchange{path: list + "?limit=0", header: f.with("X-Tenant-Id", uuid.NewString())}, 403, "tenant_mismatch", ""},
		"UnknownParameter": {exchange{path: list + "?tenant_id=" + f.theirs.String()}, 400, "invalid_parameter", "tenant_id"},
		"CaseParameter":    {exchange{path: list + "?Limit=5"}, 400, "invalid_parameter", "Limit"},
		"BracketParameter": {exchange{path: list + "?actor_id[]=a"}, 400, "invalid_parameter", "actor_id[]"},
		"EmptyLimit":       {exchange{path: list + "?limit="}, 400, "invalid_parameter", "limit"},
		"BareLimit":        {exchange{path: list + "?limit"}, 400, "invalid_parameter", "limit"},
		"ZeroLimit":        {exchange{path: list + "?limit=0"}, 400, "invalid_parameter", "limit"},
		"NegativeLimit":    {exchange{path: list + "?limit=-1"}, 400, "invalid_parameter", "limit"},
		"FractionLimit":    {exchange{path: list + "?limit=1.0"}, 400, "invalid_parameter", "limit"},
		"HexLimit":         {exchange{path: list + "?limit=0x10"}, 400, "invalid_parameter", "limit"},
		"SignedLimit":      {exchange{path: list + "?limit=%2B5"}, 400, "invalid_parameter", "limit"},
		"ArabicLimit":      {exchange{path: list + "?limit=%D9%A5"}, 400, "invalid_parameter", "limit"},
		"TwoLimits":        {exchange{path: list + "?limit=1&limit=2"}, 400, "invalid_parameter", "limit"},
		"HugeLimit":        {exchange{path: list + "?limit=99999999999999999999999999"}, 200, "", ""},
		"EmptyFilter":      {exchange{path: list + "?actor_id="}, 400, "invalid_parameter", "actor_id"},
		"OneEmptyFilter":   {exchange{path: list + "?action=a&action="}, 400, "invalid_parameter", "action"},
		"ManyValues":       {exchange{path: list + "?" + strings.Repeat("action=a&", 21)}, 400, "invalid_parameter", "action"},
		"LongValue":        {exchange{path: list + "?resource_id=" + long}, 400, "invalid_parameter", "resource_id"},
		"BadPercent":       {exchange{path: list + "?actor_id=%zz"}, 400, "invalid_parameter", "actor_id"},
		"CutPercent":       {exchange{path: list + "?actor_id=%4"}, 400, "invalid_parameter", "actor_id"},
		"BadUTF8":          {exchange{path: list + "?actor_id=%ff%fe"}, 400, "invalid_parameter", "actor_id"},
		"Surrogate":        {exchange{path: list + "?actor_id=%ed%a0%80"}, 400, "invalid_parameter", "actor_id"},
		"Semicolon":        {exchange{path: list + "?limit=1;actor_id=a"}, 400, "invalid_parameter", "query"},
		"SQLFilter":        {exchange{path: list + "?actor_id=" + url.QueryEscape("' OR '1'='1")}, 200, "", ""},
		"CedarFilter":      {exchange{path: list + "?action=" + url.QueryEscape(`") || true || ("`)}, 200, "", ""},
		"ParameterFilter":  {exchange{path: list + "?action=" + url.QueryEscape(`{tenant:UUID}`)}, 200, "", ""},
		"NULFilter":        {exchange{path: list + "?action=%00"}, 200, "", ""},
		"NoOffset":         {exchange{path: list + "?from=2026-11-23T00:00:00"}, 400, "invalid_parameter", "from"},
		"DateOnly":         {exchange{path: list + "?to=2026-11-23"}, 400, "invalid_parameter", "to"},
		"PlusIsSpace":      {exchange{path: list + "?from=2026-11-23T00:00:00+01:00"}, 400, "invalid_parameter", "from"},
		"BadDay":           {exchange{path: list + "?from=2026-02-30T00:00:00Z"}, 400, "invalid_parameter", "from"},
		"Comma":            {exchange{path: list + "?from=2026-02-03T00:00:00,5Z"}, 400, "invalid_parameter", "from"},
		"FromAfterTo":      {exchange{path: list + "?from=2026-11-23T00:00:00.0000002Z&to=2026-11-23T00:00:00.0000001Z"}, 400, "invalid_parameter", "from"},
		"FarFuture":        {exchange{path: list + "?from=9999-12-31T23:59:59.999999999Z&to=9999-12-31T23:59:59.999999999Z"}, 200, "", ""},
		"LongPast":         {exchange{path: list + "?to=0001-01-01T00:00:00Z"}, 200, "", ""},
		"EmptyCursor":      {exchange{path: list + "?cursor="}, 400, "invalid_parameter", "cursor"},
		"BadCursor":        {exchange{path: list + "?cursor=abc"}, 400, "invalid_cursor", "cursor"},
		"ForgedCursor":     {exchange{path: list + "?cursor=" + string(flipped)}, 400, "invalid_cursor", "cursor"},
		"TruncatedCursor":  {exchange{path: list + "?cursor=" + f.cursor[:40]}, 400, "invalid_cursor", "cursor"},
		"FilteredCursor":   {exchange{path: list + "?action=x&cursor=" + f.cursor}, 400, "invalid_cursor", "cursor"},
		"BoundedCursor":    {exchange{path: list + "?to=2027-01-01T00:00:00Z&cursor=" + f.cursor}, 400, "invalid_cursor", "cursor"},
		"ForeignCursor":    {exchange{path: list + "?cursor=" + f.cursor, header: http.Header{"X-Api-Key": {f.foreign.Key}, "X-Tenant-Id": {f.theirs.String()}}}, 400, "invalid_cursor", "cursor"},
		"GoodCursor":       {exchange{path: list + "?limit=2&cursor=" + f.cursor}, 200, "", ""},
		"UpperTenant":      {exchange{path: list, header: f.with("X-Tenant-Id", strings.ToUpper(f.ours.String()))}, 200, "", ""},
		"HugeURL":          {exchange{path: list + "?actor_id=" + strings.Repeat("x", 100_000)}, 414, "uri_too_long", ""},
		"EventBadID":       {exchange{path: list + "/123"}, 400, "invalid_parameter", "id"},
		"EventAbsent":      {exchange{path: list + "/" + uuid.NewString()}, 404, "not_found", ""},
		"EventParameter":   {exchange{path: list + "/" + uuid.NewString() + "?limit=1"}, 400, "invalid_parameter", "limit"},
		"MixedTenant":      {exchange{path: list, header: f.with("X-Tenant-Id", strings.ToUpper(f.ours.String()[:18])+f.ours.String()[18:])}, 200, "", ""},
		"PaddedTenant":     {exchange{path: list, header: f.with("X-Tenant-Id", f.ours.String()+","+f.ours.String())}, 400, "invalid_parameter", "X-Tenant-ID"},
		"MixedForeign":     {exchange{path: list, header: f.with("X-Tenant-Id", strings.ToUpper(f.theirs.String()))}, 403, "tenant_mismatch", ""},
		"EncodedLetter":    {exchange{path: "/v1/audit%2Dlog"}, 200, "", ""},
		"EncodedQuestion":  {exchange{path: list + "%3Flimit=1"}, 404, "not_found", ""},
		"TwiceEncoded":     {exchange{path: "/v1/%2561udit-log"}, 404, "not_found", ""},
		"HeadNoKey":        {exchange{method: "HEAD", path: list, header: http.Header{}}, 401, "", ""},
		"HeadForeign":      {exchange{method: "HEAD", path: list, header: f.with("X-Tenant-Id", f.theirs.String())}, 403, "", ""},
		"OptionsPreflight": {exchange{method: "OPTIONS", path: list, header: http.Header{"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {"GET"}}}, 405, "method_not_allowed", ""},
		"LongCursor":       {exchange{path: list + "?cursor=" + strings.Repeat("A", 60_000)}, 400, "invalid_cursor", "cursor"},
		"CursorAndMore":    {exchange{path: list + "?cursor=" + f.cursor + "A"}, 400, "invalid_cursor", "cursor"},
		"TwoCursors":       {exchange{path: list + "?cursor=" + f.cursor + "&cursor=" + f.cursor}, 400, "invalid_parameter", "cursor"},
		"OverlongUTF8":     {exchange{path: list + "?actor_id=%c0%af"}, 400, "invalid_parameter", "actor_id"},
		"OverlongName":     {exchange{path: list + "?%c0%afctor_id=a"}, 400, "invalid_parameter", ""},
		"ExponentLimit":    {exchange{path: list + "?limit=1e3"}, 400, "invalid_parameter", "limit"},
		"PlusLimit":        {exchange{path: list + "?limit=+5"}, 400, "invalid_parameter", "limit"},
		"UnderscoreLimit":  {exchange{path: list + "?limit=1_0"}, 400, "invalid_parameter", "limit"},
		"SpaceLimit":       {exchange{path: list + "?limit=%205"}, 400, "invalid_parameter", "limit"},
		"LeadingZeros":     {exchange{path: list + "?limit=0005"}, 200, "", ""},
		"TwentyValues":     {exchange{path: list + "?" + strings.Repeat("action=a&", 20)}, 200, "", ""},
		"ManyDifferent":    {exchange{path: list + "?" + strings.Repeat("action=a&action=b&", 10) + "action=c"}, 400, "invalid_parameter", "action"},
		"LeapSecond":       {exchange{path: list + "?from=2016-12-31T23:59:60Z&to=2017-01-01T00:00:01Z"}, 200, "", ""},
		"NoLeapSecond":     {exchange{path: list + "?from=2016-12-30T12:59:60Z"}, 400, "invalid_parameter", "from"},
		"Year10000":        {exchange{path: list + "?to=10000-01-01T00:00:00Z"}, 400, "invalid_parameter", "to"},
		"SignedYear":       {exchange{path: list + "?to=%2B2026-01-01T00:00:00Z"}, 400, "invalid_parameter", "to"},
		"Hour24":           {exchange{path: list + "?to=2026-01-01T24:00:00Z"}, 400, "invalid_parameter", "to"},
		"FarOffset":        {exchange{path: list + "?to=2026-01-01T00:00:00%2B24:00"}, 400, "invalid_parameter", "to"},
		"FromIsTo":         {exchange{path: list + "?from=2026-11-23T00:00:00Z&to=2026-11-23T00:00:00Z"}, 200, "", ""},
		"FeedNoKey":        {exchange{path: list + "/feed?wait=60s", header: http.Header{}}, 401, "unauthenticated", ""},
		"FeedForeign":      {exchange{path: list + "/feed", header: f.with("X-Tenant-Id", f.theirs.String())}, 403, "tenant_mismatch", ""},
		"FeedListCursor":   {exchange{path: list + "/feed?cursor=" + f.cursor}, 400, "invalid_cursor", "cursor"},
		"FeedWait":         {exchange{path: list + "/feed?wait=-1s"}, 400, "invalid_parameter", "wait"},
		"FeedWaitNumber":   {exchange{path: list + "/feed?wait=30"}, 400, "invalid_parameter", "wait"},
		"FeedStart":        {exchange{path: list + "/feed?start=end"}, 400, "invalid_parameter", "start"},
		"FeedSlash":        {exchange{path: list + "/feed/"}, 404, "not_found", ""},
		"ExportNoKey":      {exchange{path: list + "/export", header: http.Header{}}, 401, "unauthenticated", ""},
		"ExportForeign":    {exchange{path: list + "/export", header: f.with("X-Tenant-Id", f.theirs.String())}, 403, "tenant_mismatch", ""},
		"ExportFormat":     {exchange{path: list + "/export?format=xml"}, 400, "invalid_parameter", "format"},
		"ExportCursor":     {exchange{path: list + "/export?cursor=" + f.cursor}, 400, "invalid_parameter", "cursor"},
		"ExportLimit":      {exchange{path: list + "/export?limit=1"}, 400, "invalid_parameter", "limit"},
		"ExportPost":       {exchange{method: "POST", path: list + "/export"}, 405, "method_not_allowed", ""},
		"EventForeign":     {exchange{path: list + "/" + f.foreignEvent.String()}, 404, "not_found", ""},
		"EventBraced":      {exchange{path: list + "/%7B" + f.foreignEvent.String() + "%7D"}, 400, "invalid_parameter", "id"},
		"ForwardedFor":     {exchange{path: list, header: f.with("X-Forwarded-For", "127.0.0.1")}, 200, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.x.header == nil {
				c.x.header = f.header
			}
			res, body := f.do(t, c.x)
			var e errorBody
			if c.x.method != "HEAD" {
				must(t, json.Unmarshal([]byte(body), &e))
			}
			if strings.Contains(body, f.foreignEvent.String()) {
				t.Errorf("an event of another tenant: %s", body)
			}
			if res.StatusCode != c.status || e.Code != c.code {
				t.Fatalf("%d %s, want %d %s: %s", res.StatusCode, e.Code, c.status, c.code, body)
			}
			if c.fault != "" && (len(e.Details) == 0 || e.Details[0].Parameter != c.fault) {
				t.Errorf("details %+v, want %s", e.Details, c.fault)
			}
			if allow := res.Header.Get("Allow"); c.status == 405 && allow != "GET, HEAD" {
				t.Errorf("Allow: %q", allow)
			}
			if auth := res.Header.Get("WWW-Authenticate"); (c.status == 401) != (auth != "") {
				t.Errorf("WWW-Authenticate: %q", auth)
			}
		})
	}
}

// Ensure the signs of SQL, Cedar, JSON, shells and templates mean nothing in any parameter or header: filters match nothing, all else is refused.
func TestMetacharacters(t *testing.T) {
	f := newHostile(t)
	texts := []string{"' OR '1'='1", `" || true || "`, "'; DROP TABLE event_log; --", "{az0:UUID}", "{tenant:String}", "?", "$1", "%", "_", "*", "\\", "\\'", "`", "/*", "--",
		`resource.tenant`, `AuditLog::Role::"admin"`, "\x00", "\n", "\r\nX-API-Key: x", "${jndi:ldap://x}", "{{7*7}}", "$(id)", `{"a":1}`, "null", "\u202e", "\U0010ffff"}
	for _, text := range texts {
		for _, name := range []string{"actor_id", "resource_type", "resource_id", "action", "limit", "cursor", "from", "to", text} {
			res, body := f.do(t, exchange{path: "/v1/audit-log?" + url.QueryEscape(name) + "=" + url.QueryEscape(text), header: f.header})
			filter := name == "actor_id" || name == "resource_type" || name == "resource_id" || name == "action"
			if filter && (res.StatusCode != 200 || body != `{"data":[],"has_more":false}`) || !filter && res.StatusCode != 400 {
				t.Errorf("%s=%q: %d %s", name, text, res.StatusCode, body)
			}
		}
		if res, body := f.do(t, exchange{path: "/v1/audit-log/" + url.PathEscape(text), header: f.header}); res.StatusCode != 400 && res.StatusCode != 404 {
			t.Errorf("id %q: %d %s", text, res.StatusCode, body)
		}
	}
}

// Ensure all faults are named at once.
func TestAllFaultsAtOnce(t *testing.T) {
	f := newHostile(t)
	_, body := f.do(t, exchange{path: "/v1/audit-log?limit=x&from=y&to=&bogus=1&actor_id=%ff&action=&cursor=z", header: f.header})
	var e errorBody
	must(t, json.Unmarshal([]byte(body), &e))
	named := map[string]bool{}
	for _, d := range e.Details {
		named[d.Parameter] = true
	}
	for _, want := range []string{"limit", "from", "to", "bogus", "actor_id", "action", "cursor"} {
		if !named[want] {
			t.Errorf("%s is not named: %s", want, body)
		}
	}
	if e.Code != "invalid_parameter" {
		t.Errorf("code %s", e.Code)
	}
}

// Ensure every cause of a 401 gets the very same answer.
func TestUnauthenticatedIsOneAnswer(t *testing.T) {
	f := newHostile(t)
	var first string
	for _, key := range []string{"", "x", f.key.Key[:40], f.key.Key + "x"} {
		res, body := f.do(t, exchange{path: "/v1/audit-log", header: f.with("X-Api-Key", key)})
		res.Header.Del("X-Request-Id")
		res.Header.Del("Date")
		answer := fmt.Sprint(res.Status, res.Header, body)
		if first == "" {
			first = answer
		}
		if answer != first {
			t.Errorf("%q:\n got %s\nwant %s", key, answer, first)
		}
	}
}

// Ensure HEAD is GET without a body, and that a request id is taken over when it is one.
func TestHeadAndRequestID(t *testing.T) {
	f := newHostile(t)
	get, body := f.do(t, exchange{path: "/v1/audit-log", header: f.with("X-Request-Id", "req-1.a")})
	head, none := f.do(t, exchange{method: "HEAD", path: "/v1/audit-log", header: f.header})
	if head.StatusCode != 200 || none != "" || head.ContentLength != int64(len(body)) || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") {
		t.Errorf("HEAD: %d, %d bytes, Content-Length %d, want %d", head.StatusCode, len(none), head.ContentLength, len(body))
	}
	if id := get.Header.Get("X-Request-Id"); id != "req-1.a" {
		t.Errorf("request id %q", id)
	}
	for _, bad := range []string{"a b", "<x>", strings.Repeat("x", 129), "é"} {
		res, _ := f.do(t, exchange{path: "/v1/audit-log", header: f.with("X-Request-Id", bad)})
		if _, err := uuid.Parse(res.Header.Get("X-Request-Id")); err != nil {
			t.Errorf("%q became %q", bad, res.Header.Get("X-Request-Id"))
		}
	}
	for _, doc := range []string{"/v1/openapi.json", "/v1/openapi.yaml"} {
		if res, text := f.do(t, exchange{path: doc, header: http.Header{}}); res.StatusCode != 200 || !strings.Contains(text, "3.1.0") {
			t.Errorf("%s: %d", doc, res.StatusCode)
		}
	}
}

// Ensure a key over its rate is told when to come back, and that another key is not.
func TestRateLimit(t *testing.T) {
	s := newSystem(t, shared, map[string]string{"AUDIT_RATE_LIMIT": "2"})
	tenant := uuid.New()
	one, two := s.key(t, app.KeySpec{Tenant: tenant}), s.key(t, app.KeySpec{Tenant: tenant})
	s.get(t, two.Key, tenant, "")
	limited := 0
	for range 8 {
		res, body := s.get(t, one.Key, tenant, "")
		if res.StatusCode == http.StatusTooManyRequests {
			limited++
			if res.Header.Get("Retry-After") != "1" || !strings.Contains(body, `"code":"rate_limited"`) {
				t.Errorf("Retry-After %q, %s", res.Header.Get("Retry-After"), body)
			}
		}
	}
	if limited < 3 || limited > 4 {
		t.Errorf("%d of 8 requests were refused, want 4 (burst of 4)", limited)
	}
	if res, _ := s.get(t, two.Key, tenant, ""); res.StatusCode != 200 {
		t.Errorf("another key: %d", res.StatusCode)
	}
}

// Ensure that the policies' notices reach the reader.
func TestForbidden(t *testing.T) {
	s := newSystem(t, shared, nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant, ResourceTypes: []string{"invoice"}})
	res, body := s.get(t, key.Key, tenant, "?resource_type=payroll")
	var e errorBody
	must(t, json.Unmarshal([]byte(body), &e))
	if res.StatusCode != 403 || e.Code != "forbidden" || len(e.Notices) != 1 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	nobody := s.key(t, app.KeySpec{Tenant: tenant, Roles: []string{"stranger"}})
	res, body = s.get(t, nobody.Key, tenant, "")
	if res.StatusCode != 403 || strings.Contains(body, "notices") || !strings.Contains(body, `"code":"forbidden"`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// Ensure that a policy's own code stays inside: clients see the same code for every denial.
func TestForbiddenByPolicyWithCode(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "policies.cedar"), []byte(`@id("ask") permit (principal, action in AuditLog::Action::"read", resource);
@id("break-glass") @code("restricted_events") @notice("Break-glass events are visible to admins only.")
forbid (principal, action == AuditLog::Action::"ReadEvent", resource) when { resource.action like "breakglass.*" };
`), 0o600))
	s := newSystem(t, shared, map[string]string{"AUDIT_POLICY_DIR": dir})
	tenant := uuid.New()
	res, body := s.get(t, s.key(t, app.KeySpec{Tenant: tenant}).Key, tenant, "?action=breakglass.open")
	if res.StatusCode != 403 || !strings.Contains(body, `"code":"forbidden"`) || !strings.Contains(body, "visible to admins only") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// Ensure a store that is gone is 503 with Retry-After, never an empty page, and that readiness says so.
func TestStoreGone(t *testing.T) {
	own := stacktest.Start(t)
	s := newSystem(t, own, nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant})
	if res, body := s.get(t, key.Key, tenant, ""); res.StatusCode != 200 || body != `{"data":[],"has_more":false}` {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	must(t, own.StopClickHouse())
	res, body := s.get(t, key.Key, tenant, "")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, `"code":"unavailable"`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	failing := 0
	for _, c := range s.Checks() {
		if c.Run(t.Context()) != nil {
			failing++
		}
	}
	if failing != 1 {
		t.Errorf("%d checks fail, want the store's", failing)
	}
}

// Ensure a client that sends its header drop by drop, or too much of it, is cut off.
func TestSlowAndHugeHeaders(t *testing.T) {
	s := newSystem(t, shared, nil)
	conn, err := net.Dial("tcp", s.Addr())
	must(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "GET /v1/audit-log HTTP/1.1\r\nHost: x\r\nX-Api-Key: ")
	must(t, err)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	began := time.Now()
	_, err = bufio.NewReader(conn).ReadByte()
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a slow client still holds its connection after %s", time.Since(began))
	}
	huge, err := net.Dial("tcp", s.Addr())
	must(t, err)
	defer func() { _ = huge.Close() }()
	go func() {
		_, _ = io.WriteString(huge, "GET /v1/audit-log HTTP/1.1\r\nHost: x\r\nX-Api-Key: "+strings.Repeat("k", 300_000)+"\r\n\r\n")
	}()
	status, err := bufio.NewReader(huge).ReadString('\n')
	if err != nil || !strings.Contains(status, " 431 ") {
		t.Errorf("300 kB of header: %q, %v", status, err)
	}
}
