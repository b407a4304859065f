package app_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
)

// checked is a transport that holds every answer against the OpenAPI document of the repository.
type checked struct {
	tb        testing.TB
	validator validator.Validator
}

func newChecked(tb testing.TB) *checked {
	tb.Helper()
	text, err := os.ReadFile("../internal/httpapi/openapi.yaml")
	must(tb, err)
	doc, err := libopenapi.NewDocument(text)
	must(tb, err)
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions())
	for _, err := range errs {
		tb.Fatal(err)
	}
	return &checked{tb, v}
}

// Ensure the document itself obeys OpenAPI 3.1.
func TestTheDocumentIsOpenAPI(t *testing.T) {
	ok, errs := newChecked(t).validator.ValidateDocument()
	for _, e := range errs {
		t.Errorf("%s: %s", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			t.Logf("  %+v", s)
		}
	}
	if !ok && len(errs) == 0 {
		t.Error("refused without a reason")
	}
}

func (c *checked) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	c.always(r, res)
	c.described(r, res, body)
	return res, nil
}

// always checks what every answer has.
func (c *checked) always(r *http.Request, res *http.Response) {
	c.tb.Helper()
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Request-ID": "", "Content-Type": ""} {
		got := res.Header.Values(name)
		if len(got) != 1 || got[0] == "" || (want != "" && got[0] != want) {
			c.tb.Errorf("%s %s: header %s is %q", r.Method, r.URL, name, got)
		}
	}
}

// described checks an answer against the document. What has no route is not in it.
func (c *checked) described(r *http.Request, res *http.Response, body []byte) {
	c.tb.Helper()
	known := strings.HasPrefix(r.URL.Path, "/v1/openapi.") || r.URL.Path == "/v1/audit-log" ||
		strings.HasPrefix(r.URL.Path, "/v1/audit-log/") && strings.Count(r.URL.Path, "/") == 3 && !strings.HasSuffix(r.URL.Path, "/")
	if !known || res.StatusCode == http.StatusMethodNotAllowed || strings.HasSuffix(r.URL.Path, ".yaml") || r.Method == http.MethodHead {
		return
	}
	bodies := [][]byte{body}
	if res.Header.Get("Content-Type") == "application/x-ndjson" { // the validator reads one value, and the document describes a line
		bodies = slices.Collect(bytes.Lines(body))
	}
	for _, body := range bodies {
		c.valid(r, res, body)
	}
}

func (c *checked) valid(r *http.Request, res *http.Response, body []byte) {
	c.tb.Helper()
	copied := *res
	copied.Body = io.NopCloser(bytes.NewReader(body))
	if ok, errs := c.validator.ValidateHttpResponse(r, &copied); !ok {
		for _, e := range errs {
			c.tb.Errorf("%s %s: %d is not as the document says: %s: %s", r.Method, r.URL, res.StatusCode, e.Message, e.Reason)
			for _, s := range e.SchemaValidationErrors {
				c.tb.Errorf("  %s at %s", s.Reason, s.KeywordLocation)
			}
		}
		c.tb.Errorf("  body %s", body)
	}
}
