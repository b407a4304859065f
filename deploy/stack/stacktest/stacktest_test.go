package stacktest_test

import (
	"net/http"
	"strings"
	"testing"

	"example.com/auditlog/deploy/stack/stacktest"
)

func TestStart(t *testing.T) {
	s := stacktest.Start(t)
	resp, err := http.Post(s.ClickHouseHTTPURL(), "text/plain", strings.NewReader("select 1"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	t.Log(resp.Status, s.ClickHousePID())
}
