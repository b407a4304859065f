package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/deploy/auditlog/internal/company"
	"example.com/auditlog/deploy/stack"
	query "example.com/auditlog/services/query/app"
)

// demoKeyFile keeps the demo key between runs: the system itself stores only its hash.
const demoKeyFile = "demo-key"

// demoKey is the key of the demo tenant: the one printed at the first run on this data folder.
func demoKey(ctx context.Context, nc *nats.Conn, dataDir string) (string, error) {
	path := filepath.Join(dataDir, demoKeyFile)
	saved, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(saved)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the demo key: %w", err)
	}
	key, err := query.CreateKey(ctx, nc, query.KeySpec{Tenant: company.Tenants[0].ID, Name: "demo"})
	if err != nil {
		return "", fmt.Errorf("make the demo key: %w", err)
	}
	if err := os.WriteFile(path, []byte(key.Key+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the demo key: %w", err)
	}
	return key.Key, nil
}

func printEngines(out io.Writer, s *stack.Stack) {
	fmt.Fprintf(out, `
Ready.
  NATS        %s
  ClickHouse  %s (SQL for analysts: the view audit.events)
              %s/?database=audit
`, s.NATSURL(), s.ClickHouseURL(), s.ClickHouseHTTPURL())
}

func printServices(out io.Writer, api, opsAddr, key string) {
	tenant := company.Tenants[0].ID
	fmt.Fprintf(out, `  API         http://%s/v1/audit-log (described by http://%s/v1/openapi.yaml)
  operations  http://%s/readyz, /metrics

  demo tenant %s (%s)
  demo key    %s

Read the log:
  %s
Fill it, from another terminal:
  make demo
Stop with Ctrl-C.
`, api, api, opsAddr, tenant, company.Tenants[0].Name, key, curl(pageURL(api, url.Values{"limit": {"5"}}), key, tenant))
}

func pageURL(addr string, params url.Values) string {
	return (&url.URL{Scheme: "http", Host: addr, Path: "/v1/audit-log", RawQuery: params.Encode()}).String()
}

// curl is a command line that works when pasted into a shell.
func curl(at, key string, tenant uuid.UUID) string {
	return fmt.Sprintf("curl -s -H 'X-API-Key: %s' -H 'X-Tenant-ID: %s' '%s'", key, tenant, at)
}
