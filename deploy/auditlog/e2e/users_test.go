package e2e

import (
	"bytes"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// Two tenants with a producer each.
var (
	tenantA = uuid.MustParse("0193aaaa-0000-7000-8000-00000000000a")
	tenantB = uuid.MustParse("0193aaaa-0000-7000-8000-00000000000b")
)

const userPassword = "secretx"

// guarded is a NATS with the shipped users.
type guarded struct {
	t   *testing.T
	srv *server.Server
}

// startNATSFrom runs a server with deploy/nats/server.conf and, with users, users.conf.example filled in.
func startNATSFrom(t *testing.T, dir string, users bool) *guarded {
	t.Helper()
	if !users {
		return startNATSWith(t, dir, nil)
	}
	return startNATSWith(t, dir, fillTenants(t))
}

// startNATSWith runs a server with deploy/nats/server.conf and, unless fill is nil, users.conf.example as it makes it.
func startNATSWith(t *testing.T, dir string, fill func([]byte) []byte) *guarded {
	t.Helper()
	for _, name := range []string{"INGESTER", "QUERY", "OPERATOR"} {
		t.Setenv("AUDIT_NATS_"+name+"_PASSWORD", userPassword)
	}
	conf := t.TempDir()
	copyFile(t, filepath.Join(root, "deploy/nats/server.conf"), filepath.Join(conf, "server.conf"), nil)
	main := filepath.Join(conf, "server.conf")
	if fill != nil {
		main = filepath.Join(conf, "users.conf")
		copyFile(t, filepath.Join(root, "deploy/nats/users.conf.example"), main, fill)
	}
	opts, err := server.ProcessConfigFile(main)
	must(t, err)
	opts.Host, opts.Port, opts.HTTPHost, opts.HTTPPort = "127.0.0.1", server.RANDOM_PORT, "", 0
	opts.StoreDir, opts.NoSigs, opts.NoLog = dir, true, true
	srv, err := server.NewServer(opts)
	must(t, err)
	srv.Start()
	g := &guarded{t: t, srv: srv}
	t.Cleanup(g.stop)
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS is not ready after 10 s")
	}
	return g
}

func (g *guarded) stop() {
	g.srv.Shutdown()
	g.srv.WaitForShutdown()
}

func copyFile(t *testing.T, from, to string, change func([]byte) []byte) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	if change != nil {
		text = change(text)
	}
	must(t, os.WriteFile(to, text, 0o600))
}

// fillTenants repeats the last block of the example for each tenant, as its text tells the reader to.
func fillTenants(t *testing.T) func([]byte) []byte {
	hash, err := bcrypt.GenerateFromPassword([]byte(userPassword), bcrypt.MinCost)
	must(t, err)
	return func(text []byte) []byte {
		const begin = "  \"tenant-TENANT_ID\": {\n"
		head, block, ok := bytes.Cut(text, []byte(begin))
		if !ok {
			t.Fatal("the example has no block for a tenant")
		}
		block, ok = bytes.CutSuffix(block, []byte("}\n"))
		if !ok {
			t.Fatal("the tenant's block is not the last one")
		}
		out := bytes.Clone(head)
		for _, tenant := range []uuid.UUID{tenantA, tenantB} {
			out = append(out, strings.NewReplacer("TENANT_ID", tenant.String(), "PASSWORD_BCRYPT", string(hash)).Replace(begin+string(block))...)
		}
		return append(out, "}\n"...)
	}
}

// url is the server's with a user in it, as AUDIT_NATS_URL has it.
func (g *guarded) url(user string) string {
	return strings.Replace(g.srv.ClientURL(), "nats://", "nats://"+user+":"+userPassword+"@", 1)
}

func (g *guarded) connect(user string, options ...nats.Option) *nats.Conn {
	g.t.Helper()
	nc, err := nats.Connect(g.url(user), append(options, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	must(g.t, err)
	g.t.Cleanup(nc.Close)
	return nc
}

func producerOf(tenant uuid.UUID) string { return "producer-" + tenant.String() }

// startServices runs ingester and query on g with their own users, and ClickHouse from a stack.
func (g *guarded) startServices(opts ...stacktest.Option) *system {
	t := g.t
	t.Helper()
	s := &system{Stack: stacktest.Start(t, opts...)}
	// A refused request is a failure of the test: each is a line that says so.
	warnings := &refusals{t: t}
	log := slog.New(slog.NewJSONHandler(warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
	getenv := func(user string) func(string) string {
		env := map[string]string{
			"AUDIT_NATS_URL": g.url(user), "AUDIT_CLICKHOUSE_URL": s.ClickHouseURL(), "AUDIT_HTTP_ADDR": "127.0.0.1:0", "AUDIT_RATE_LIMIT": "0",
			"AUDIT_TRIM_INTERVAL": "1s", "AUDIT_RETENTION": "1m",
		}
		return func(name string) string { return env[name] }
	}
	iCfg, err := ingester.ConfigFromEnv(getenv("ingester"))
	must(t, err)
	ing, err := ingester.New(t.Context(), iCfg, ingester.Deps{Log: log, Registerer: prometheus.NewRegistry()})
	must(t, err)
	background(t, ing.Run)
	qCfg, err := query.ConfigFromEnv(getenv("query"))
	must(t, err)
	q, err := query.New(t.Context(), qCfg, query.Deps{Log: log, Registerer: prometheus.NewRegistry()})
	must(t, err)
	background(t, q.Run)
	waitReady(t, append(ing.Checks(), q.Checks()...))
	s.api = "http://" + q.Addr() + "/v1/audit-log"
	s.nc = g.connect("operator")
	return s
}

// refusals fails the test for each log line about a permission.
type refusals struct{ t *testing.T }

func (r *refusals) Write(p []byte) (int, error) {
	if line := string(p); strings.Contains(strings.ToLower(line), "permission") {
		r.t.Error(line)
	}
	return len(p), nil
}

// Ensure the system works end to end with the shipped users: services, command lines, and a producer, batches included; and that trimming does.
func TestUsersCanDoTheirWork(t *testing.T) {
	g := startNATSFrom(t, t.TempDir(), true)
	s := g.startServices()
	pub, err := events.NewPublisher(g.connect(producerOf(tenantA)))
	must(t, err)
	old := newEvent(tenantA)
	must(t, pub.Publish(t.Context(), old))
	var futures []*events.Future
	for range 500 {
		f, err := pub.PublishAsync(t.Context(), newEvent(tenantA))
		must(t, err)
		futures = append(futures, f)
	}
	for _, f := range futures {
		_, err := f.Wait(t.Context())
		must(t, err)
	}
	must(t, pub.Close(t.Context()))
	nc := g.connect(producerOf(tenantB))
	_, err = nc.Request(events.Subject(tenantB), []byte("no event"), 5*time.Second)
	must(t, err)
	if stored := s.batched(t); stored < 100 {
		t.Errorf("%d of 500 events went as batches", stored)
	}
	s.walkUntil(t, s.key(t, tenantA), tenantA, 1000, 501)

	env := append(os.Environ(), "AUDIT_NATS_URL="+g.url("operator"), "AUDIT_CLICKHOUSE_URL="+s.ClickHouseURL())
	services := append(slices.Clone(env), "AUDIT_NATS_URL="+g.url("ingester"))
	tenant := " --operator olga --reason r --tenant " + tenantA.String()
	for _, c := range []struct {
		env           []string
		program, args string
		want          string
	}{
		{env, "ingester", "verify --deep", "OK"},
		{env, "ingester", "rebuild", "501 rows made anew"},
		{env, "ingester", "verify", "OK"},
		{services, "ingester", "retention set --days 900" + tenant, "decision 1"},
		{services, "ingester", "erase rule set --fields n" + tenant, "decision 2"},
		{services, "ingester", "erase --actor user_17" + tenant, "events changed"},
		{env, "ingester", "erase list", "erased-"},
		{env, "ingester", "erase --dry-run --actor user_17" + tenant, "0 events would be"},
		{services, "ingester", "hold set" + tenant, "decision 4"},
		{services, "ingester", "retention run --operator olga", "0 rows removed"},
		{env, "ingester", "retention run --dry-run", "0 rows would be"},
		{env, "ingester", "retention list", "900"},
		{env, "ingester", "hold list", "olga"},
		{env, "ingester", "dlq list", tenantB.String()},
		{env, "ingester", "dlq replay --force 1", "1 replayed"},
		{env, "query", "keys create --tenant " + tenantA.String() + " --name cli", "key "},
		{env, "query", "keys list", "cli"},
	} {
		out, err := command(t, c.env, bin(t, c.program), strings.Fields(c.args)...)
		if err != nil || !strings.Contains(out, c.want) || strings.Contains(strings.ToLower(out), "permission") {
			t.Errorf("%s %s: %v\n%s", c.program, c.args, err, out)
		}
	}
}

// batched counts the messages of the stream that came in an atomic batch.
func (s *system) batched(t *testing.T) (n int) {
	t.Helper()
	js, err := jetstream.New(s.nc)
	must(t, err)
	stream, err := js.Stream(t.Context(), events.StreamAudit)
	must(t, err)
	for seq := range stream.CachedInfo().State.LastSeq {
		m, err := stream.GetMsg(t.Context(), seq+1)
		must(t, err)
		if m.Header.Get("Nats-Batch-Id") != "" {
			n++
		}
	}
	return n
}

// refused says whether the server refuses to publish to the subject, or to subscribe to it.
func refused(t *testing.T, nc *nats.Conn, subject string, subscribe bool) bool {
	t.Helper()
	before := nc.LastError()
	if subscribe {
		sub, err := nc.SubscribeSync(subject)
		must(t, err)
		defer func() { _ = sub.Unsubscribe() }()
	} else {
		must(t, nc.PublishRequest(subject, nc.NewInbox(), []byte("{}")))
	}
	must(t, nc.Flush())
	err := nc.LastError()
	return err != before && errors.Is(err, nats.ErrPermissionViolation) //nolint:errorlint // is it another one?
}

// Ensure who may do what is what the page says, on the real server.
func TestUsersCanDoNothingElse(t *testing.T) {
	g := startNATSFrom(t, t.TempDir(), true)
	a, b := "audit.events."+tenantA.String(), "audit.events."+tenantB.String()
	everybody := []string{ // nobody may
		"$JS.API.STREAM.DELETE.AUDIT", "$JS.API.STREAM.DELETE.AUDIT_LEDGER", "$JS.API.STREAM.DELETE.AUDIT_DLQ", "$JS.API.STREAM.DELETE.KV_audit_keys",
		"$JS.API.STREAM.DELETE.AUDIT_CONTROL", "$JS.API.STREAM.PURGE.AUDIT_CONTROL", "$JS.API.STREAM.MSG.DELETE.AUDIT_CONTROL",
		"$JS.API.STREAM.PURGE.AUDIT_LEDGER", "$JS.API.STREAM.PURGE.AUDIT_DLQ", "$JS.API.STREAM.PURGE.KV_audit_keys", "$JS.API.STREAM.MSG.DELETE.AUDIT",
		"$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.UPDATE.KV_audit_keys", "$JS.API.STREAM.RESTORE.AUDIT", "$JS.API.STREAM.SNAPSHOT.AUDIT",
		"$SYS.REQ.SERVER.PING", "audit.log.1." + tenantA.String(), "anything",
	}
	for user, rights := range map[string]struct{ may, mayNot, maySubscribe, mayNotSubscribe []string }{
		producerOf(tenantA): {
			may: []string{a},
			mayNot: []string{
				b, "audit.events.*", "audit.dlq." + tenantA.String(), "audit.ledger.0", "$KV.audit_keys.x", "$KV.audit_secrets.cursor", "$KV.audit_positions.0",
				"$KV.audit_ingesters.x", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.AUDIT", "$JS.API.STREAM.CREATE.AUDIT",
				"$JS.API.STREAM.PURGE.AUDIT", "$JS.API.STREAM.MSG.GET.AUDIT", "$JS.API.DIRECT.GET.AUDIT", "$JS.API.DIRECT.GET.KV_audit_keys.x",
				"$JS.API.CONSUMER.CREATE.AUDIT.c", "$JS.API.CONSUMER.CREATE.KV_audit_keys.c", "$JS.API.CONSUMER.MSG.NEXT.AUDIT.c", "$JS.ACK.AUDIT.c.1.1.1.1.0", "_INBOX.x",
			},
			maySubscribe: []string{"_INBOX.mine.*"},
			mayNotSubscribe: []string{
				">", "audit.>", a, b, "audit.log.>", "audit.dlq.>", "$KV.>", "$KV.audit_keys.*", "$JS.API.>", "$JS.EVENT.>", "$SYS.>", "_R_.>",
			},
		},
		"query": {
			may: []string{
				"$JS.API.STREAM.INFO.AUDIT", "$JS.API.STREAM.CREATE.KV_audit_keys", "$JS.API.CONSUMER.CREATE.KV_audit_keys.c.$KV.audit_keys.>",
				"$JS.API.DIRECT.GET.KV_audit_secrets.$KV.audit_secrets.cursor", "$KV.audit_secrets.cursor", a, b,
				"$JS.API.CONSUMER.CREATE.KV_audit_positions.c.$KV.audit_positions.>",
			},
			mayNot: []string{
				"audit.ledger.0", "audit.control.all", "audit.dlq." + tenantA.String(), "$KV.audit_keys.x", "$KV.audit_positions.0", "$KV.audit_ingesters.x",
				"$JS.API.STREAM.PURGE.AUDIT", "$JS.API.STREAM.CREATE.AUDIT", "$JS.API.STREAM.UPDATE.AUDIT", "$JS.API.STREAM.MSG.GET.AUDIT", "$JS.API.DIRECT.GET.AUDIT",
				"$JS.API.CONSUMER.CREATE.AUDIT.c", "$JS.API.CONSUMER.MSG.NEXT.AUDIT.c", "$JS.API.CONSUMER.CREATE.AUDIT_LEDGER.c", "$JS.API.STREAM.INFO.AUDIT_DLQ",
			},
			maySubscribe:    []string{"_INBOX.>"},
			mayNotSubscribe: []string{">", "audit.events.*", "audit.log.>", "$KV.audit_keys.*"},
		},
		"operator": {
			may:             []string{a, "$KV.audit_keys.x", "$JS.API.STREAM.INFO.AUDIT", "$JS.API.CONSUMER.CREATE.AUDIT.c"},
			mayNot:          []string{"$JS.API.STREAM.PURGE.AUDIT", "$JS.API.STREAM.UPDATE.AUDIT", "audit.ledger.0", "audit.control.all", "audit.dlq.x", "$KV.audit_positions.0", "$KV.audit_secrets.cursor", "$KV.audit_key_uses.x"},
			maySubscribe:    []string{"_INBOX.>"},
			mayNotSubscribe: []string{">", "audit.events.*"},
		},
		"ingester": {
			may:             []string{"$JS.API.STREAM.PURGE.AUDIT", "audit.ledger.0", "audit.control.all", "audit.dlq.x", "$KV.audit_positions.0", a},
			mayNot:          []string{"$KV.audit_keys.x", "$KV.audit_secrets.cursor", "$JS.API.CONSUMER.CREATE.KV_audit_keys.c", "$JS.API.DIRECT.GET.KV_audit_secrets.$KV.audit_secrets.cursor"},
			mayNotSubscribe: []string{">", "audit.events.*", "$KV.audit_keys.*"},
			maySubscribe:    []string{"_INBOX.>"},
		},
	} {
		nc := g.connect(user)
		check := func(subjects []string, subscribe, want bool) {
			for _, subject := range subjects {
				if got := refused(t, nc, subject, subscribe); got != want {
					t.Errorf("%s, %s, subscribe %t: refused %t, want %t", user, subject, subscribe, got, want)
				}
			}
		}
		check(rights.may, false, false)
		check(append(rights.mayNot, everybody...), false, true)
		check(rights.maySubscribe, true, false)
		check(rights.mayNotSubscribe, true, true)
	}
	for _, nobody := range []string{g.srv.ClientURL(), strings.Replace(g.url("query"), userPassword, "wrong", 1), g.url("producer-x")} {
		if nc, err := nats.Connect(nobody); err == nil {
			nc.Close()
			u, _ := url.Parse(nobody)
			t.Errorf("%s may connect", u.User)
		}
	}
}

// Ensure a producer cannot have its acknowledgement, which the server sends with its own rights, written where it may not write itself.
func TestAcknowledgementsStayWithTheProducer(t *testing.T) {
	g := startNATSFrom(t, t.TempDir(), true)
	s := g.startServices()
	js, err := jetstream.New(s.nc)
	must(t, err)
	keys, err := js.KeyValue(t.Context(), "audit_keys")
	must(t, err)
	nc := g.connect(producerOf(tenantA))
	targets := []string{
		"audit.events." + tenantB.String(), "$KV.audit_keys.evil", "$KV.audit_secrets.cursor", "audit.ledger.0", "audit.dlq." + tenantB.String(),
		"$JS.API.STREAM.PURGE.AUDIT", "$JS.API.STREAM.DELETE.AUDIT",
	}
	for _, reply := range targets {
		must(t, nc.PublishRequest(events.Subject(tenantA), reply, []byte("{}")))
	}
	// A request of our own, answered after all of those.
	_, err = nc.Request(events.Subject(tenantA), []byte("{}"), 5*time.Second)
	must(t, err)
	stream, err := js.Stream(t.Context(), events.StreamAudit)
	must(t, err)
	state := stream.CachedInfo().State
	if want := uint64(len(targets) + 1); state.Msgs != want || state.FirstSeq != 1 {
		t.Errorf("stream has %d messages from sequence %d, want the %d published ones", state.Msgs, state.FirstSeq, want)
	}
	for seq := range state.LastSeq {
		m, err := stream.GetMsg(t.Context(), seq+1)
		must(t, err)
		if string(m.Data) != "{}" || !strings.HasSuffix(m.Subject, tenantA.String()) {
			t.Errorf("sequence %d: %s %s", seq+1, m.Subject, m.Data)
		}
	}
	if _, err := keys.Get(t.Context(), "evil"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the bucket of the keys has a key made by a producer: %v", err)
	}
}

// Ensure a publisher says at once which events its connection may not publish, wherever in a batch they are, and stores the others.
func TestDeniedEventsAreRefusedAtOnce(t *testing.T) {
	g := startNATSFrom(t, t.TempDir(), true)
	js, err := jetstream.New(g.connect("ingester"))
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamAudit, Subjects: []string{events.SubjectEvents}, AllowAtomicPublish: true})
	must(t, err)
	pub, err := events.NewPublisher(g.connect(producerOf(tenantA)))
	must(t, err)
	defer func() { must(t, pub.Close(t.Context())) }()
	const soon = 2 * time.Second // an unanswered attempt would wait for events.DefaultAckWait, 5 s
	for _, group := range []string{"B", "B", "ABA", "BAA", "AAB", "BBAB", strings.Repeat("A", 50) + "B" + strings.Repeat("A", 50)} {
		began := time.Now()
		var futures []*events.Future
		for _, tenant := range "A" + group { // the first goes alone, what comes while it is on its way as a batch
			f, err := pub.PublishAsync(t.Context(), newEvent(map[rune]uuid.UUID{'A': tenantA, 'B': tenantB}[tenant]))
			must(t, err)
			futures = append(futures, f)
		}
		for i, f := range futures {
			_, err := f.Wait(t.Context())
			denied := ("A" + group)[i] == 'B'
			if denied && (!errors.Is(err, events.ErrRefused) || !errors.Is(err, nats.ErrPermissionViolation)) || !denied && err != nil {
				t.Errorf("%s: event %d: %v", group, i, err)
			}
		}
		if took := time.Since(began); took > soon {
			t.Errorf("%s: known after %s", group, took)
		}
	}
}

// Ensure what was stored before there were users is theirs after one rename, as the page tells.
func TestUsersTakeOverWhatWasStored(t *testing.T) {
	dir := t.TempDir()
	open := startNATSFrom(t, dir, false)
	nc, err := nats.Connect(open.srv.ClientURL())
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamAudit, Subjects: []string{events.SubjectEvents}})
	must(t, err)
	_, err = js.Publish(t.Context(), events.Subject(tenantA), []byte("before"))
	must(t, err)
	open.stop()
	must(t, os.Rename(filepath.Join(dir, "jetstream", "$G"), filepath.Join(dir, "jetstream", "AUDIT")))
	g := startNATSFrom(t, dir, true)
	js, err = jetstream.New(g.connect("operator"))
	must(t, err)
	stream, err := js.Stream(t.Context(), events.StreamAudit)
	must(t, err)
	if m, err := stream.GetMsg(t.Context(), 1); err != nil || string(m.Data) != "before" {
		t.Errorf("%v %v", m, err)
	}
}

// command runs a program to its end and returns all that it prints.
func command(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	return string(out), err
}
