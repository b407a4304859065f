package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy"
	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/ops"
	"example.com/auditlog/pkg/service/shard"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// sharded is a system of two ClickHouse servers that know of each other by the shipped remote_servers.
type sharded struct {
	*system
	shards [2]*stack.Stack
	checks []ops.Check // of the query service
}

// startSharded starts it, with the shipped analyst of a tenant on both servers.
func startSharded(t *testing.T, analyst uuid.UUID) *sharded {
	t.Helper()
	sum := sha256.Sum256([]byte(analystPassword))
	filled := strings.NewReplacer("PASSWORD_SHA256", hex.EncodeToString(sum[:]), "TENANT_ID", analyst.String())
	ports := [2]int{freePort(t), freePort(t)}
	secrets := filepath.Join(t.TempDir(), "secrets.xml")
	must(t, os.WriteFile(secrets, []byte("<clickhouse><cluster_secret>shared</cluster_secret><replica_password>r</replica_password></clickhouse>"), 0o600))
	t.Setenv("AUDIT_CH_CLUSTER_SECRETS", secrets)
	s := &sharded{}
	for i := range s.shards {
		dir := t.TempDir()
		conf := filepath.Join(dir, "clickhouse", "conf")
		for _, d := range []string{"config.d", "users.d"} {
			must(t, os.MkdirAll(filepath.Join(conf, d), 0o750))
		}
		copyFile(t, filepath.Join(root, "deploy/cluster/clickhouse/config.d/cluster.xml"), filepath.Join(conf, "config.d", "cluster.xml"), oneReplicaOn(t, ports))
		copyFile(t, filepath.Join(root, "deploy/cluster/clickhouse/users.d/cluster.xml"), filepath.Join(conf, "users.d", "cluster.xml"), nil)
		copyFile(t, filepath.Join(root, "deploy", deploy.AnalystExample), filepath.Join(conf, "users.d", "acme.xml"), func(text []byte) []byte { return []byte(filled.Replace(string(text))) })
		s.shards[i] = stacktest.Start(t, stacktest.Dir(dir), func(o *stack.Options) { o.ClickHousePort = ports[i] })
	}
	s.system = &system{Stack: s.shards[0]}
	log := slog.New(slog.NewJSONHandler(&testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for i := range s.shards {
		cfg, err := ingester.ConfigFromEnv(s.env(i))
		must(t, err)
		ing, err := ingester.New(t.Context(), cfg, ingester.Deps{Log: log, Registerer: prometheus.NewRegistry()})
		must(t, err)
		background(t, ing.Run)
		waitReady(t, ing.Checks())
	}
	env := func(name string) string {
		return map[string]string{
			"AUDIT_NATS_URL": s.NATSURL(), "AUDIT_HTTP_ADDR": "127.0.0.1:0", "AUDIT_RATE_LIMIT": "0",
			"AUDIT_CLICKHOUSE_URL": s.shards[0].ClickHouseURL() + "\n" + s.shards[1].ClickHouseURL(),
		}[name]
	}
	cfg, err := query.ConfigFromEnv(env)
	must(t, err)
	q, err := query.New(t.Context(), cfg, query.Deps{Log: log, Registerer: prometheus.NewRegistry()})
	must(t, err)
	background(t, q.Run)
	s.checks = q.Checks()
	waitReady(t, s.checks)
	s.api = "http://" + q.Addr() + "/v1/audit-log"
	s.nc, err = nats.Connect(s.NATSURL())
	must(t, err)
	t.Cleanup(s.nc.Close)
	return s
}

// env is the environment of an ingester, or its commands, of a shard.
func (s *sharded) env(i int) func(string) string {
	return func(name string) string {
		return map[string]string{
			"AUDIT_NATS_URL": s.NATSURL(), "AUDIT_CLICKHOUSE_URL": s.shards[i].ClickHouseURL(), "AUDIT_SHARD": fmt.Sprintf("%d/2", i+1),
			"AUDIT_OPS_ADDR": "127.0.0.1:0",
		}[name]
	}
}

// oneReplicaOn takes from the shipped file what the engine of the tests has no port for: replicas and Keeper. The first replica of each shard listens
// on a port of ours.
func oneReplicaOn(t *testing.T, ports [2]int) func([]byte) []byte {
	return func(text []byte) []byte {
		for _, gone := range []string{
			`(?s)<replica><host>clickhouse-\d-2</host>.*?</replica>`, `(?s)<zookeeper>.*?</zookeeper>`, `(?s)<macros>.*?</macros>`,
			`(?s)<interserver_http_host.*</interserver_http_credentials>`,
		} {
			re := regexp.MustCompile(gone)
			if !re.Match(text) {
				t.Fatalf("cluster.xml has no %s", gone)
			}
			text = re.ReplaceAll(text, nil)
		}
		for i, port := range ports {
			text = bytes.ReplaceAll(text, fmt.Appendf(nil, "<host>clickhouse-%d-1</host><port>9000</port>", i+1), fmt.Appendf(nil, "<host>127.0.0.1</host><port>%d</port>", port))
		}
		return text
	}
}

// tenantOn is a tenant whose events are on a shard.
func tenantOn(i int) uuid.UUID {
	for {
		if id := uuid.New(); shard.Of(events.Partition(id, query.DefaultPartitions), 2) == i {
			return id
		}
	}
}

// command runs the ingester's command line for a shard.
func (s *sharded) command(t *testing.T, i int, args ...string) (status int, out string) {
	t.Helper()
	var text bytes.Buffer
	status = ingester.Main(t.Context(), args, s.env(i), nil, &text, &text)
	return status, text.String()
}

// Ensure two ClickHouse servers share the partitions: each event is on its tenant's shard alone and once; the commands see their shard; with one shard
// away its tenants get 503, never a part of a page, and the others their log; what was published meanwhile comes when it is back; and analysts ask
// both by the shipped Distributed table, or get an error.
func TestTwoShards(t *testing.T) {
	tenants := [2]uuid.UUID{tenantOn(0), tenantOn(1)}
	s := startSharded(t, tenants[1])
	var keys [2]string
	const n = 700
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	for i, tenant := range tenants {
		keys[i] = s.key(t, tenant)
		publishMany(t, pub, tenant, n)
	}
	for i, tenant := range tenants {
		if got := len(s.walkUntil(t, keys[i], tenant, 100, n)); got != n {
			t.Errorf("shard %d: the walk gives %d events, want %d", i, got, n)
		}
		for j, other := range s.shards {
			want := uint64(0)
			if i == j {
				want = n
			}
			if got := s.count(t, other, "SELECT count() FROM event_log WHERE tenant_id = '"+tenant.String()+"'"); got != want {
				t.Errorf("tenant of shard %d has %d rows on shard %d, want %d", i, got, j, want)
			}
		}
	}
	s.checkCommands(t, tenants)

	s.checkAnalysts(t, tenants, n)

	must(t, s.shards[1].KillClickHouse())
	publishMany(t, pub, tenants[1], 100)
	for range 20 { // past the circuit breaker too
		if status, body := s.request(t, keys[1], tenants[1], url.Values{"limit": {"10"}}); status != http.StatusServiceUnavailable || !bytes.Contains(body, []byte(`"unavailable"`)) {
			t.Fatalf("with its shard away a tenant gets %d %s", status, body)
		}
		if status, body := s.request(t, keys[0], tenants[0], url.Values{"limit": {"10"}}); status != http.StatusOK {
			t.Fatalf("with the other shard away a tenant gets %d %s", status, body)
		}
	}
	publishMany(t, pub, tenants[0], 100)
	s.walkUntil(t, keys[0], tenants[0], 1000, n+100)
	if answer, err := ask(s.shards[0], "SELECT count() FROM all_events"); err == nil {
		t.Errorf("with a shard away analysts get %s", answer)
	}
	for _, c := range s.checks {
		if err := c.Run(t.Context()); err != nil || c.Name == "clickhouse" && !strings.Contains(c.Note(), "shard 2 of 2") {
			t.Errorf("with a shard away readiness of %s is %v", c.Name, err)
		}
	}

	must(t, s.shards[1].StartClickHouse(t.Context()))
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if status, _ := s.request(t, keys[1], tenants[1], url.Values{"limit": {"10"}}); status == http.StatusOK {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("with its shard back a tenant gets %d", status)
		}
	}
	if got := len(s.walkUntil(t, keys[1], tenants[1], 1000, n+100)); got != n+100 {
		t.Errorf("after the outage the walk gives %d events, want %d", got, n+100)
	}
	must(t, pub.Close(t.Context()))
	for i := range s.shards {
		if status, out := s.command(t, i, "verify", "--deep"); status != 0 {
			t.Errorf("verify of shard %d: status %d\n%s", i, status, out)
		}
	}
}

// checkAnalysts asks both servers what both have, as whoever sees all tenants and as the analyst of the second one. Each tenant has n events.
func (s *sharded) checkAnalysts(t *testing.T, tenants [2]uuid.UUID, n uint64) {
	t.Helper()
	ddl, err := os.ReadFile(filepath.Join(root, "deploy/cluster/clickhouse/all_events.sql"))
	must(t, err)
	for _, one := range s.shards {
		for statement := range strings.SplitSeq(strings.TrimSpace(string(ddl)), ";\n") {
			_, err := ask(one, statement)
			must(t, err)
		}
	}
	for _, one := range s.shards {
		analyst := strings.Replace(one.ClickHouseHTTPURL(), "://", "://analyst_acme:"+analystPassword+"@", 1)
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) { // counts follow
			if s.count(t, one, "SELECT sum(events) FROM all_events_hourly") == 2*n {
				break
			} else if time.Now().After(deadline) {
				t.Fatal("analysts do not get the counts of both shards")
			}
		}
		for _, c := range []struct{ url, want string }{
			{one.ClickHouseHTTPURL(), fmt.Sprintf("%d\t%d\t2", 2*n, 2*n)},
			{analyst, fmt.Sprintf("%d\t%d\t1", n, n)},
		} {
			got, err := askAt(c.url, "SELECT count(), (SELECT sum(events) FROM all_events_hourly), uniqExact(tenant_id) FROM all_events")
			if err != nil || got != c.want {
				t.Errorf("events, counted events and tenants are %q, %v, want %q", got, err, c.want)
			}
		}
		if got, err := askAt(analyst, "SELECT any(tenant_id) FROM all_events_hourly"); err != nil || got != tenants[1].String() {
			t.Errorf("the analyst of %s sees counts of %s, %v", tenants[1], got, err)
		}
	}
}

// checkCommands runs verify and rebuild for the shards, and for a shard with the other's address.
func (s *sharded) checkCommands(t *testing.T, tenants [2]uuid.UUID) {
	t.Helper()
	for i := range s.shards {
		for _, args := range [][]string{{"verify", "--deep"}, {"verify", "--tenant", tenants[i].String()}, {"rebuild"}, {"verify"}} {
			if status, out := s.command(t, i, args...); status != 0 {
				t.Errorf("shard %d: %v: status %d\n%s", i, args, status, out)
			}
		}
		for _, args := range [][]string{{"verify", "--tenant", tenants[1-i].String()}, {"rebuild", "--tenant", tenants[1-i].String()}} {
			if status, out := s.command(t, i, args...); status != 1 || !strings.Contains(out, "on another shard") {
				t.Errorf("shard %d: %v of the other's tenant: status %d\n%s", i, args, status, out)
			}
		}
	}
	var out bytes.Buffer
	crossed := func(name string) string {
		if name == "AUDIT_SHARD" {
			return "2/2"
		}
		return s.env(0)(name)
	}
	if status := ingester.Main(t.Context(), []string{"verify"}, crossed, nil, &out, &out); status != 1 || !strings.Contains(out.String(), "of another shard") {
		t.Errorf("verify of one shard with the other's address: status %d\n%s", status, out.String())
	}
}

func publishMany(t *testing.T, pub *events.Publisher, tenant uuid.UUID, n int) {
	t.Helper()
	futures := make([]*events.Future, n)
	for i := range futures {
		var err error
		futures[i], err = pub.PublishAsync(t.Context(), newEvent(tenant))
		must(t, err)
	}
	for _, f := range futures {
		_, err := f.Wait(t.Context())
		must(t, err)
	}
}

// ask runs a statement over HTTP, in database audit.
func ask(s *stack.Stack, sql string) (string, error) { return askAt(s.ClickHouseHTTPURL(), sql) }

// askAt asks the server at an address, which may have a user.
func askAt(address, sql string) (string, error) {
	resp, err := http.Post(address+"/?database=audit", "text/plain", strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body.String())
	}
	return strings.TrimSpace(body.String()), err
}

func (s *sharded) count(t *testing.T, on *stack.Stack, sql string) (n uint64) {
	t.Helper()
	answer, err := ask(on, sql)
	must(t, err)
	must(t, json.Unmarshal([]byte(answer), &n))
	return n
}
