package app_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Ensure what no HTTP client would send is answered as it should be, byte by byte on the connection, and never with an event. What net/http itself
// refuses, before any handler is asked, has the form of all errors too.
func TestRawRequests(t *testing.T) {
	f := newHostile(t)
	good := "X-API-Key: " + f.key.Key + "\r\nX-Tenant-ID: " + f.ours.String() + "\r\n"
	half := len(f.key.Key) / 2
	const get = "GET /v1/audit-log HTTP/1.1\r\nHost: x\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
		code    string
	}{
		"TwoLengths":        {get + good + "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", 400, "malformed_request"},
		"BadLength":         {get + good + "Content-Length: -1\r\n\r\n", 400, "malformed_request"},
		"UnknownCoding":     {get + good + "Transfer-Encoding: xchunked\r\n\r\n", 501, "malformed_request"},
		"TwoCodings":        {get + good + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501, "malformed_request"},
		"SpaceBeforeColon":  {get + "X-API-Key : " + f.key.Key + "\r\nX-Tenant-ID: " + f.ours.String() + "\r\n\r\n", 400, "malformed_request"},
		"NoHost":            {"GET /v1/audit-log HTTP/1.1\r\n" + good + "\r\n", 400, "malformed_request"},
		"TwoHosts":          {get + "Host: y\r\n" + good + "\r\n", 400, "malformed_request"},
		"BadHost":           {"GET /v1/audit-log HTTP/1.1\r\nHost: a b\r\n" + good + "\r\n", 400, "malformed_request"},
		"NULInHeader":       {get + good + "X-Other: a\x00b\r\n\r\n", 400, "malformed_request"},
		"NoVersion":         {"GET /v1/audit-log\r\n" + good + "\r\n", 400, "malformed_request"},
		"FutureVersion":     {"GET /v1/audit-log HTTP/3.0\r\nHost: x\r\n" + good + "\r\n", 505, "malformed_request"},
		"BadTarget":         {"GET v1/audit-log HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 400, "malformed_request"},
		"SpaceInTarget":     {"GET /v1/audit-log?actor_id=a b HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 400, "malformed_request"},
		"BadMethod":         {"G(T /v1/audit-log HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 400, "malformed_request"},
		"BadEncodingInPath": {"GET /v1/audit-log/%zz HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 400, "malformed_request"},
		"Expectation":       {get + good + "Expect: rows\r\n\r\n", 417, "malformed_request"},
		"FoldedKey":         {get + "X-API-Key: " + f.key.Key[:half] + "\r\n " + f.key.Key[half:] + "\r\nX-Tenant-ID: " + f.ours.String() + "\r\n\r\n", 401, "unauthenticated"},
		"KeyTwiceByCase":    {get + good + "x-api-KEY: " + f.foreign.Key + "\r\n\r\n", 401, "unauthenticated"},
		"TenantTwiceByCase": {get + good + "x-tenant-id: " + f.theirs.String() + "\r\n\r\n", 400, "invalid_parameter"},
		"Underscores":       {get + "X_API_Key: " + f.key.Key + "\r\nX_Tenant_ID: " + f.ours.String() + "\r\n\r\n", 401, "unauthenticated"},
		"KeyInTrailer": {get + "Transfer-Encoding: chunked\r\nTrailer: X-API-Key, X-Tenant-ID\r\n\r\n0\r\n" + good + "\r\n", 401,
			"unauthenticated"},
		"TenantInTrailer": {get + "X-API-Key: " + f.key.Key + "\r\nTransfer-Encoding: chunked\r\nTrailer: X-Tenant-ID\r\n\r\n0\r\nX-Tenant-ID: " +
			f.ours.String() + "\r\n\r\n", 400, "invalid_parameter"},
		"KeyInCookie":         {get + "Cookie: X-API-Key=" + f.key.Key + "\r\n\r\n", 401, "unauthenticated"},
		"KeyAsBearer":         {get + "Authorization: Bearer " + f.key.Key + "\r\nX-Tenant-ID: " + f.ours.String() + "\r\n\r\n", 401, "unauthenticated"},
		"KeyInURL":            {"GET /v1/audit-log?X-API-Key=" + f.key.Key + " HTTP/1.1\r\nHost: x\r\n\r\n", 401, "unauthenticated"},
		"UserInURL":           {"GET http://" + f.key.Key + "@x/v1/audit-log HTTP/1.1\r\nHost: x\r\n\r\n", 401, "unauthenticated"},
		"MethodOverride":      {"POST /v1/audit-log HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\n" + good + "Content-Length: 0\r\n\r\n", 405, "method_not_allowed"},
		"OriginalURL":         {"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nX-Original-URL: /v1/audit-log\r\n" + good + "\r\n", 404, "not_found"},
		"OptionsStar":         {"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 404, "not_found"},
		"Connect":             {"CONNECT /v1/audit-log HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 405, "method_not_allowed"},
		"LowerMethod":         {"get /v1/audit-log HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 405, "method_not_allowed"},
		"NULInPath":           {"GET /v1/audit-log%00 HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 404, "not_found"},
		"MatrixPath":          {"GET /v1/audit-log;tenant=x HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 404, "not_found"},
		"BackslashPath":       {"GET /v1\\audit-log HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 404, "not_found"},
		"DotPath":             {"GET /v1/./audit-log HTTP/1.1\r\nHost: x\r\n" + good + "\r\n", 404, "not_found"},
		"LargeHeader":         {get + good + "X-Other: " + strings.Repeat("x", 40_000) + "\r\n\r\n", 431, "header_too_large"},
		"ManyHeaders":         {get + good + strings.Repeat("X-Other: xxxxxxxxxx\r\n", 3_000) + "\r\n", 431, "header_too_large"},
		"LargeHeaderNoKey":    {get + "X-Other: " + strings.Repeat("x", 100_000) + "\r\n\r\n", 431, "header_too_large"},
		"HeaderBeyondNetHTTP": {get + "X-Other: " + strings.Repeat("x", 300_000) + "\r\n\r\n", 431, "header_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", f.Addr())
			must(t, err)
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			go func() { _, _ = io.WriteString(conn, c.request) }()
			method, _, _ := strings.Cut(c.request, " ")
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: strings.ReplaceAll(method, "CONNECT", "GET")})
			must(t, err)
			body, err := io.ReadAll(res.Body)
			must(t, err)
			_ = res.Body.Close()
			var e errorBody
			must(t, json.Unmarshal(body, &e))
			if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Request-Id") == "" || res.Header.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", res.Header)
			}
			if res.StatusCode != c.status || e.Code != c.code || strings.Contains(string(body), "actor_id") {
				t.Errorf("%d %s, want %d %s: %.200s", res.StatusCode, e.Code, c.status, c.code, body)
			}
		})
	}
}

// Ensure a request hidden in the body of another is answered only as what it is when it comes out: a request with its own key.
func TestSmuggledRequest(t *testing.T) {
	f := newHostile(t)
	hidden := "GET /v1/audit-log HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: " + f.theirs.String() + "\r\n\r\n"
	request := "GET /v1/audit-log HTTP/1.1\r\nHost: x\r\nX-API-Key: " + f.foreign.Key + "\r\nX-Tenant-ID: " + f.theirs.String() +
		"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
	conn, err := net.Dial("tcp", f.Addr())
	must(t, err)
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, request)
	must(t, err)
	in := bufio.NewReader(conn)
	first, err := http.ReadResponse(in, nil)
	must(t, err)
	_, _ = io.Copy(io.Discard, first.Body)
	_ = first.Body.Close()
	second, err := http.ReadResponse(in, nil)
	if err != nil {
		return // the connection was closed: as good
	}
	defer func() { _ = second.Body.Close() }()
	if second.StatusCode != http.StatusUnauthorized {
		t.Errorf("the hidden request was answered %d", second.StatusCode)
	}
}
