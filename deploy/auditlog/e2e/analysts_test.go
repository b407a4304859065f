package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"example.com/auditlog/deploy"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
)

const analystPassword = "secret-a"

// Names of the analysts of the tests: one for each of two tenants, and one for all.
const (
	analystA   = "analyst_a"
	analystB   = "analyst_b"
	analystAll = "analyst_all"
)

// startWithAnalysts runs the system with analysts whose files are the shipped examples, filled in.
func startWithAnalysts(t *testing.T, extra ...string) *system {
	t.Helper()
	dir := t.TempDir()
	users := filepath.Join(dir, "clickhouse", "conf", "users.d")
	must(t, os.MkdirAll(users, 0o750))
	sum := sha256.Sum256([]byte(analystPassword))
	for name, tenant := range map[string]uuid.UUID{analystA: tenantA, analystB: tenantB, analystAll: uuid.Nil} {
		example, form := deploy.AnalystExample, "analyst_acme"
		if tenant == uuid.Nil {
			example, form = deploy.AnalystAllExample, "analyst_group"
		}
		text, err := deploy.Files.ReadFile(example)
		must(t, err)
		filled := strings.NewReplacer(form, name, "PASSWORD_SHA256", hex.EncodeToString(sum[:]), "TENANT_ID", tenant.String()).Replace(string(text))
		must(t, os.WriteFile(filepath.Join(users, name+".xml"), []byte(filled), 0o600))
	}
	return startSystemWith(t, append([]string{"AUDIT_HOURLY_INTERVAL=200ms"}, extra...), stacktest.Dir(dir))
}

// as is a connection of the user over the native protocol.
func (s *system) as(t *testing.T, user string) driver.Conn {
	t.Helper()
	opts, err := chgo.ParseDSN(strings.Replace(s.ClickHouseURL(), "clickhouse://", "clickhouse://"+user+":"+analystPassword+"@", 1))
	must(t, err)
	db, err := chgo.Open(opts)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// A way asks ClickHouse as a user for the one column of a query's rows, and returns it as text.
type way func(ctx context.Context, t *testing.T, s *system, user, sql string) ([]string, error)

// ways are those in which analysts come.
var ways = map[string]way{"native": askNative, "HTTP": askHTTP, "@clickhouse/client": askNode}

func askNative(ctx context.Context, t *testing.T, s *system, user, sql string) (out []string, err error) {
	rows, err := s.as(t, user).Query(ctx, "SELECT toString(c) FROM (SELECT * FROM ("+sql+")) AS q(c)")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func askHTTP(ctx context.Context, _ *testing.T, s *system, user, sql string) ([]string, error) {
	text, err := s.post(ctx, user, sql)
	return strings.Fields(text), err
}

// tsv asks over HTTP and returns the answer as it comes.
func (s *system) tsv(t *testing.T, user, sql string) (string, error) {
	t.Helper()
	return s.post(t.Context(), user, sql)
}

// post asks over HTTP.
func (s *system) post(ctx context.Context, user, sql string) (string, error) {
	target := s.ClickHouseHTTPURL() + "/?" + url.Values{"database": {"audit"}, "default_format": {"TSV"}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.Close = true
	req.SetBasicAuth(user, analystPassword)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(body))
	}
	return string(body), err
}

func askNode(ctx context.Context, t *testing.T, s *system, user, sql string) (out []string, err error) {
	rows, err := nodeRows(ctx, t, s, user, sql, nil)
	for _, row := range rows {
		if len(row) != 1 {
			return nil, fmt.Errorf("a row has %d columns", len(row))
		}
		for _, v := range row {
			out = append(out, fmt.Sprint(v))
		}
	}
	return out, err
}

// nodeRows asks with the official client of Node.
func nodeRows(ctx context.Context, t *testing.T, s *system, user, sql string, params map[string]any) (out []map[string]any, err error) {
	t.Helper()
	dir, err := nodeClient()
	must(t, err)
	if params == nil {
		params = map[string]any{}
	}
	given, err := json.Marshal(params)
	must(t, err)
	cmd := exec.CommandContext(ctx, "node", "read.mjs")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(sql)
	cmd.Env = append(os.Environ(), "CLICKHOUSE_URL="+s.ClickHouseHTTPURL(), "CLICKHOUSE_USER="+user, "CLICKHOUSE_PASSWORD="+analystPassword, "CLICKHOUSE_PARAMS="+string(given))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	dec := json.NewDecoder(&stdout)
	for {
		var row map[string]any
		if err := dec.Decode(&row); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
}

// nodeClient installs the client once, in a folder of its own, and returns it.
var nodeClient = sync.OnceValues(func() (string, error) {
	dir, err := binaries()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "jsclient")
	if err := os.CopyFS(dir, os.DirFS("jsclient")); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, nil
})

// fill publishes n events of each of the two tenants, and one of them twice, and waits until they are counted by hours.
func (s *system) fill(t *testing.T, n int) {
	t.Helper()
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	var futures []*events.Future
	publish := func(ev events.Event) {
		f, err := pub.PublishAsync(t.Context(), ev)
		must(t, err)
		futures = append(futures, f)
	}
	for i := range n {
		for _, tenant := range []uuid.UUID{tenantA, tenantB} {
			ev := newEvent(tenant)
			ev.Action, ev.ActorID = fmt.Sprintf("act.%d", i%3), fmt.Sprintf("user_%d", i%7)
			publish(ev)
		}
	}
	for _, f := range futures {
		_, err := f.Wait(t.Context())
		must(t, err)
	}
	must(t, pub.Close(t.Context()))
	s.waitCounted(t, 2*n)
}

// waitCounted returns when the hourly counts add up to n, and to what the view of events has, key by key.
func (s *system) waitCounted(t *testing.T, n int) {
	t.Helper()
	db := s.sql(t)
	var wrong, events uint64
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		must(t, db.QueryRow(t.Context(), `SELECT countIf(a != b), sum(a) FROM (
			SELECT tenant_id, hour, actor_id, action, sum(is) AS a, sum(counted) AS b FROM (
				SELECT tenant_id, toStartOfHour(created_at)::DateTime('UTC') AS hour, actor_id, action, count() AS is, 0::UInt64 AS counted FROM events GROUP BY ALL
				UNION ALL SELECT tenant_id, hour, actor_id, action, 0, events FROM events_hourly)
			GROUP BY ALL)`).Scan(&wrong, &events))
		if wrong == 0 && events == uint64(n) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %d events %d are there, and %d counts are wrong, after %s", n, events, wrong, patience)
		}
	}
}

// readable are the objects an analyst may read.
var readable = []string{"events", "events_hourly"}

// Ensure an analyst sees the own tenant alone: in every object of the database, however it asks, over every way in.
func TestAnalystSeesTheOwnTenant(t *testing.T) {
	s := startWithAnalysts(t)
	s.fill(t, 50)
	var tables []string
	must(t, s.sql(t).QueryRow(t.Context(), "SELECT groupArray(name) FROM system.tables WHERE database = 'audit'").Scan(&tables))
	if len(tables) < 6 {
		t.Fatalf("the database has only %v", tables)
	}
	for name, ask := range ways {
		t.Run(name, func(t *testing.T) {
			tables := tables
			if name == "@clickhouse/client" {
				tables = []string{"events", "schema_migrations"} // HTTP underneath, and a process for each question
			}
			for _, table := range tables {
				for user, want := range map[string][]string{analystA: {tenantA.String()}, analystB: {tenantB.String()}, analystAll: {tenantA.String(), tenantB.String()}} {
					if !slices.Contains(readable, table) {
						if got, err := ask(t.Context(), t, s, user, "SELECT count() FROM audit."+table); err == nil || !strings.Contains(err.Error(), "Not enough privileges") {
							t.Errorf("%s may read %s: %v, %v", user, table, got, err)
						}
						continue
					}
					got, err := ask(t.Context(), t, s, user, "SELECT DISTINCT toString(tenant_id) AS tenant FROM audit."+table+" ORDER BY tenant")
					if slices.Sort(want); err != nil || !slices.Equal(got, want) {
						t.Errorf("%s sees %v of %s, want %v; %v", user, got, table, want, err)
					}
				}
			}
		})
	}
	// A policy that depends on how a query is planned would be none.
	foreign := "toUUID('" + tenantB.String() + "')"
	for _, table := range readable {
		for _, sql := range []string{
			"SELECT count() FROM audit.%s WHERE tenant_id = " + foreign,
			"SELECT count() FROM audit.%s WHERE tenant_id = " + foreign + " SETTINGS optimize_trivial_count_query = 1, optimize_use_projections = 1",
			"SELECT countIf(tenant_id = " + foreign + ") FROM audit.%s WHERE 1 OR tenant_id = " + foreign,
			"SELECT sum(throwIf(tenant_id = " + foreign + ", 'seen')) FROM audit.%s",
			"SELECT count() FROM audit.%s WHERE throwIf(tenant_id = " + foreign + ", 'seen') = 1",
			"SELECT count() FROM audit.%s WHERE actor_id != '' AND throwIf(tenant_id = " + foreign + ", 'seen') = 1",
			"SELECT count() FROM audit.%s WHERE throwIf(tenant_id = " + foreign + ", 'seen') = 1 SETTINGS short_circuit_function_evaluation = 'disable', query_plan_merge_filters = 1",
			"SELECT count() FROM audit.%s WHERE actor_id != '' AND throwIf(tenant_id = " + foreign + ", 'seen') = 1 SETTINGS move_all_conditions_to_prewhere = 1, allow_reorder_prewhere_conditions = 1, compatibility = '23.1'",
			"SELECT count() FROM audit.%s WHERE intDiv(1, tenant_id != " + foreign + ") = 5",
			"SELECT count() FROM (SELECT a.tenant_id FROM audit.%[1]s AS a JOIN audit.%[1]s AS b ON a.actor_id = b.actor_id WHERE a.tenant_id != b.tenant_id)",
			"SELECT count() FROM merge('audit', '^%s$') WHERE tenant_id = " + foreign,
			"SELECT count() FROM (SELECT tenant_id FROM audit.%s UNION ALL SELECT tenant_id FROM audit.events) WHERE tenant_id = " + foreign,
		} {
			if got, err := askHTTP(t.Context(), t, s, analystA, fmt.Sprintf(sql, table)); err != nil || !slices.Equal(got, []string{"0"}) {
				t.Errorf(sql+": %v, %v", table, got, err)
			}
		}
	}
	// The cache of answers is each user's own.
	cached := "SELECT DISTINCT tenant_id FROM audit.events SETTINGS use_query_cache = 1, query_cache_share_between_users = 1, query_cache_min_query_runs = 0"
	for _, user := range []string{analystAll, analystB, analystA} {
		if got, err := askHTTP(t.Context(), t, s, user, cached); user == analystA && (err != nil || !slices.Equal(got, []string{tenantA.String()})) {
			t.Errorf("out of the cache: %v, %v", got, err)
		}
	}
}

// Ensure an analyst reads, and does nothing else.
func TestAnalystMayDoNothingElse(t *testing.T) {
	s := startWithAnalysts(t)
	s.fill(t, 5)
	for _, user := range []string{analystA, analystAll} {
		for _, sql := range []string{
			"INSERT INTO audit.event_log (id) VALUES (generateUUIDv4())",
			"INSERT INTO audit.event_hours (events) VALUES (1)",
			"SELECT * FROM audit.tombstones", "SELECT * FROM audit.control_log", "INSERT INTO audit.tombstones VALUES (1, 1, 1)", "SELECT * FROM mergeTreeIndex('audit', 'tombstones')",
			"ALTER TABLE audit.event_hours DELETE WHERE 1", "DELETE FROM audit.event_log WHERE 1", "TRUNCATE TABLE audit.event_hours",
			"DROP VIEW audit.events_hourly", "OPTIMIZE TABLE audit.event_log FINAL", "CREATE VIEW audit.mine AS SELECT 1", "CREATE TEMPORARY TABLE mine (x UInt8)",
			"CREATE USER other", "GRANT SELECT ON *.* TO " + user, "SYSTEM STOP MERGES audit.event_log", "KILL QUERY WHERE 1",
			"BACKUP TABLE audit.event_log TO File('x')",
			"SELECT * FROM mergeTreeIndex('audit', 'event_log')", "SELECT count() FROM mergeTreeIndex('audit', 'event_hours')",
			"SELECT * FROM mergeTreeTextIndex('audit', 'event_log', 'tags')", "SELECT * FROM mergeTreeTextIndex('audit', 'event_log', 'event_ids')",
			"SELECT * FROM mergeTreeAnalyzeIndexes('audit', 'event_log')", "SELECT * FROM merge('audit', '^event_log$')",
			"SELECT * FROM remote('127.0.0.1', 'audit', 'event_log')", "SELECT * FROM file('/etc/passwd', 'LineAsString')",
			"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM executable('x', 'TSV', 'a String')",
			"SELECT * FROM clusterAllReplicas('default', 'audit', 'event_log')", "SELECT * FROM loop('audit', 'schema_migrations')",
			"SELECT query FROM system.query_log", "SELECT * FROM system.row_policies", "SELECT * FROM system.users",
			"SELECT addressToSymbol(0)",
		} {
			if got, err := askHTTP(t.Context(), t, s, user, sql); err == nil {
				t.Errorf("%s may: %s (%v)", user, sql, got)
			}
		}
		if _, err := askHTTP(t.Context(), t, s, user+"x", "SELECT 1"); err == nil {
			t.Error("a stranger may read")
		}
	}
}

// Ensure an analyst cannot take what the service needs: no limit can be lifted, and each one holds.
func TestAnalystLimits(t *testing.T) {
	s := startWithAnalysts(t)
	text, err := deploy.Files.ReadFile(deploy.ClickHouseAnalysts)
	must(t, err)
	_, constraints, _ := strings.Cut(string(text), "<constraints>")
	constraints, _, _ = strings.Cut(constraints, "</constraints>")
	bounded := regexp.MustCompile(`<(\w+)><(?:const|min)`).FindAllStringSubmatch(constraints, -1)
	if len(bounded) < 8 {
		t.Fatalf("only %d bounds", len(bounded))
	}
	for _, b := range bounded {
		for _, value := range []string{"0", "1000000000000"} {
			if b[1] == "max_threads" && value == "0" || b[1] == "enable_analyzer" && value != "0" || b[1] == "optimize_move_to_prewhere_if_final" && value == "0" {
				continue // "as many as are allowed", and what they are
			}
			if strings.HasSuffix(b[1], "_mode") {
				value = "'break'"
			}
			if got, err := askHTTP(t.Context(), t, s, analystA, "SELECT 1 SETTINGS "+b[1]+" = "+value); err == nil {
				t.Errorf("%s may be set to %s: %v", b[1], value, got)
			}
		}
	}
	for sql, code := range map[string]string{
		"SELECT count() FROM numbers(1000000000000) WHERE number % 3 = 5 SETTINGS max_execution_time = 1, max_rows_to_read = 1000000000": "TOO_MANY_ROWS",
		"SELECT sum(sipHash64(number, number + 1, number + 2, number + 3)) FROM numbers(900000000) SETTINGS max_execution_time = 1":      "TIMEOUT_EXCEEDED",
		"SELECT length(groupArray(toString(number))) FROM numbers(100000000)":                                                            "MEMORY_LIMIT_EXCEEDED",
	} {
		if got, err := askHTTP(t.Context(), t, s, analystA, sql); err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v, %v; want %s", sql, got, err, code)
		}
	}
	quota, err := askHTTP(t.Context(), t, s, analystA, "SELECT arrayStringConcat(arrayMap((n, v) -> n || '=' || toString(v), ['queries', 'read_rows'], [max_queries, max_read_rows]), ',') FROM system.quota_usage")
	if err != nil || !slices.Equal(quota, []string{"queries=2000,read_rows=20000000000"}) {
		t.Errorf("quota %v, %v", quota, err)
	}
	// More than four at once are refused, and others are not kept out by that.
	var wg sync.WaitGroup
	var mu sync.Mutex
	refused := 0
	for range 8 {
		wg.Go(func() {
			_, err := askHTTP(t.Context(), t, s, analystA, "SELECT sleepEachRow(1) FROM numbers(3)")
			if err != nil && strings.Contains(err.Error(), "TOO_MANY_SIMULTANEOUS_QUERIES") {
				mu.Lock()
				refused++
				mu.Unlock()
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := askHTTP(t.Context(), t, s, analystB, "SELECT 1"); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if refused == 0 {
		t.Error("eight queries at once run")
	}
}

// Ensure what a rebuild makes beside the live table is out of reach, and that the policies hold while the tables are swapped.
func TestAnalystsDuringRebuild(t *testing.T) {
	s := startWithAnalysts(t)
	s.fill(t, 300)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	asked := 0
	for i, table := range []string{"events", "events_hourly", "event_log_building"} {
		wg.Go(func() {
			// The quota has an end to queries and errors.
			for n := 0; ctx.Err() == nil && n < 400; n++ {
				got, err := askHTTP(t.Context(), t, s, analystA, "SELECT DISTINCT tenant_id FROM audit."+table)
				switch {
				// A query that was answered counts for a moment longer: three who ask without a pause can come to more than four.
				case err != nil && strings.Contains(err.Error(), "TOO_MANY_SIMULTANEOUS_QUERIES"):
				case i == 2 && err == nil:
					t.Errorf("%s can be read: %v", table, got)
				case i < 2 && err != nil && !strings.Contains(err.Error(), "UNKNOWN_TABLE") || err == nil && !slices.Equal(got, []string{tenantA.String()}):
					t.Errorf("%s: %v, %v", table, got, err)
				case i == 0:
					asked++
				}
			}
		})
	}
	env := append(os.Environ(), "AUDIT_NATS_URL="+s.NATSURL(), "AUDIT_CLICKHOUSE_URL="+s.ClickHouseURL())
	for range 2 {
		if out, err := command(t, env, bin(t, "ingester"), "rebuild"); err != nil || !strings.Contains(out, "600 rows made anew") {
			t.Errorf("rebuild: %v\n%s", err, out)
		}
	}
	cancel()
	wg.Wait()
	if asked < 5 {
		t.Errorf("only %d queries during the rebuilds", asked)
	}
	s.waitCounted(t, 600)
}

// Ensure the hourly counts are those of the events when these come twice, late, and while the ingester is killed and started again.
func TestHourlyCountsEndToEnd(t *testing.T) {
	s := startWithAnalysts(t)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	n := 0
	for range 4 {
		ev := newEvent(tenantA)
		late := newEvent(tenantB)
		late.CreatedAt = late.CreatedAt.AddDate(0, -5, 0)
		must(t, pub.Publish(t.Context(), ev))
		must(t, pub.Publish(t.Context(), late))
		// The same event under another message id: the stream takes it for another one.
		wire, err := ev.Encode()
		must(t, err)
		_, err = s.nc.Request(events.Subject(tenantA), wire, 5*time.Second)
		must(t, err)
		n += 2
		must(t, s.CrashClickHouse())
		s.waitCountedAgain(t, n)
	}
	must(t, pub.Close(t.Context()))
	env := append(os.Environ(), "AUDIT_NATS_URL="+s.NATSURL(), "AUDIT_CLICKHOUSE_URL="+s.ClickHouseURL())
	must(t, s.sql(t).Exec(t.Context(), "ALTER TABLE event_log DELETE WHERE tenant_id = '"+tenantB.String()+"' SETTINGS mutations_sync = 2"))
	if out, err := command(t, env, bin(t, "ingester"), "recount", "--tenant", tenantB.String()); err != nil || !strings.Contains(out, "counts put right") || strings.HasPrefix(out, "0 ") {
		t.Errorf("recount: %v\n%s", err, out)
	}
	s.waitCounted(t, n/2)
}

// waitCountedAgain is waitCounted after ClickHouse was killed: the first queries may find it away.
func (s *system) waitCountedAgain(t *testing.T, n int) {
	t.Helper()
	db := s.sql(t)
	for deadline := time.Now().Add(patience); db.Ping(t.Context()) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("ClickHouse does not come back")
		}
	}
	s.waitCounted(t, n)
}
