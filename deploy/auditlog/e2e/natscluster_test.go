package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	ingester "example.com/auditlog/services/ingester/app"
	query "example.com/auditlog/services/query/app"
)

// natsCluster is three NATS servers with the configuration of deploy/cluster, on ports of their own.
type natsCluster struct {
	t       *testing.T
	dir     string
	ports   [3]int
	routes  [3]int
	servers [3]*server.Server
}

func startNATSCluster(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t, dir: t.TempDir()}
	for _, name := range []string{"INGESTER", "QUERY", "OPERATOR"} {
		t.Setenv("AUDIT_NATS_"+name+"_PASSWORD", userPassword)
	}
	copyFile(t, filepath.Join(root, "deploy/nats/server.conf"), filepath.Join(c.dir, "server.conf"), nil)
	copyFile(t, filepath.Join(root, "deploy/nats/users.conf.example"), filepath.Join(c.dir, "users.conf"), fillTenants(t))
	copyFile(t, filepath.Join(root, "deploy/cluster/nats/cluster.conf"), filepath.Join(c.dir, "cluster.conf"),
		func(text []byte) []byte { return bytes.ReplaceAll(text, []byte("/run/secrets"), []byte(c.dir)) })
	writeCerts(t, c.dir)
	for i := range c.servers {
		c.ports[i], c.routes[i] = freePort(t), freePort(t)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	for i := range c.servers {
		c.start(i)
	}
	c.ready()
	return c
}

// start runs one of the servers; what it is called, where it listens and stores, and where the others are is all that is not from the files.
func (c *natsCluster) start(i int) {
	t := c.t
	t.Helper()
	t.Setenv("AUDIT_NATS_NAME", fmt.Sprint("audit-nats-", i+1))
	opts, err := server.ProcessConfigFile(filepath.Join(c.dir, "cluster.conf"))
	must(t, err)
	if len(opts.Routes) != 3 || opts.TLSConfig == nil || opts.Cluster.TLSConfig == nil || len(opts.Accounts) != 3 {
		t.Fatalf("the configuration has %d routes, %d accounts, TLS %t and %t", len(opts.Routes), len(opts.Accounts), opts.TLSConfig != nil, opts.Cluster.TLSConfig != nil)
	}
	opts.Host, opts.Port, opts.HTTPHost, opts.HTTPPort = "127.0.0.1", c.ports[i], "", 0
	opts.Cluster.Host, opts.Cluster.Port = "127.0.0.1", c.routes[i]
	opts.Routes = nil
	for _, port := range c.routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "tls", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	opts.StoreDir, opts.NoSigs, opts.NoLog = filepath.Join(c.dir, fmt.Sprint("store-", i)), true, true
	srv, err := server.NewServer(opts)
	must(t, err)
	srv.Start()
	c.servers[i] = srv
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatalf("NATS server %d is not ready", i)
	}
}

func (c *natsCluster) stop(i int) {
	if c.servers[i] == nil {
		return
	}
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
	c.servers[i] = nil
}

// ready waits until JetStream has a leader and every server that runs follows it.
func (c *natsCluster) ready() {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		current, leader := true, false
		for _, s := range c.servers {
			current = current && (s == nil || s.JetStreamIsCurrent())
			leader = leader || s != nil && s.JetStreamIsLeader()
		}
		if current && leader {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatal("the NATS servers find no leader")
		}
	}
}

// url names all servers, with a user, as AUDIT_NATS_URL has it.
func (c *natsCluster) url(user string) string {
	urls := make([]string, len(c.ports))
	for i, port := range c.ports {
		urls[i] = fmt.Sprintf("tls://%s:%s@127.0.0.1:%d", user, userPassword, port)
	}
	return strings.Join(urls, ",")
}

func (c *natsCluster) ca() string { return filepath.Join(c.dir, "nats_ca") }

func (c *natsCluster) connect(user string) *nats.Conn {
	c.t.Helper()
	nc, err := nats.Connect(c.url(user), nats.RootCAs(c.ca()), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	must(c.t, err)
	c.t.Cleanup(nc.Close)
	return nc
}

// leader is the index of the server that leads a stream.
func (c *natsCluster) leader(js jetstream.JetStream, stream string) int {
	c.t.Helper()
	s, err := js.Stream(c.t.Context(), stream)
	must(c.t, err)
	info := s.CachedInfo()
	if info.Config.Replicas != 3 || info.Cluster == nil {
		c.t.Fatalf("stream %s has %d replicas, cluster %+v", stream, info.Config.Replicas, info.Cluster)
	}
	var i int
	if _, err := fmt.Sscanf(info.Cluster.Leader, "audit-nats-%d", &i); err != nil {
		c.t.Fatalf("stream %s is led by %q", stream, info.Cluster.Leader)
	}
	return i - 1
}

// writeCerts makes an authority and a certificate for all three servers.
func writeCerts(t *testing.T, dir string) {
	t.Helper()
	caKey, key := newKey(t), newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"nats-1", "nats-2", "nats-3"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	write := func(name, kind string, der []byte, err error) {
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	write("nats_ca", "CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, cert, ca, key.Public(), caKey)
	write("nats_cert", "CERTIFICATE", der, err)
	der, err = x509.MarshalECPrivateKey(key)
	write("nats_key", "EC PRIVATE KEY", der, err)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// load publishes events of a tenant until stop; it keeps what was not acknowledged and publishes it again, with the same id.
type load struct {
	acked atomic.Int64
	ids   sync.Map
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

func (c *natsCluster) load(tenant uuid.UUID) *load {
	c.t.Helper()
	pub, err := events.NewPublisher(c.connect(producerOf(tenant)))
	must(c.t, err)
	ctx, stop := context.WithCancel(c.t.Context())
	l := &load{stop: stop}
	c.t.Cleanup(l.end)
	for range 8 {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				ev := newEvent(tenant)
				for pub.Publish(c.t.Context(), ev) != nil {
					if c.t.Context().Err() != nil {
						return
					}
				}
				l.ids.Store(ev.ID, true)
				l.acked.Add(1)
			}
		})
	}
	return l
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// more waits until n further events are acknowledged.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.acked.Load() + n
	for deadline := time.Now().Add(patience); l.acked.Load() < want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d events are acknowledged, waiting for %d", l.acked.Load(), want)
		}
	}
}

// behind says whether a server lacks messages of a stream that verify reads, or is not heard of yet.
func (c *natsCluster) behind(js jetstream.JetStream) bool {
	c.t.Helper()
	for _, name := range []string{events.StreamAudit, events.StreamLedger, events.StreamDLQ} {
		stream, err := js.Stream(c.t.Context(), name)
		must(c.t, err)
		replicas := stream.CachedInfo().Cluster.Replicas
		if len(replicas) != 2 || slices.ContainsFunc(replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline || p.Lag > 0 }) {
			return true
		}
	}
	return false
}

// Ensure that of three NATS servers any may go while events flow, the leader too: every acknowledged event is in the log once, keys go on to work
// and new ones can be made, and the server that comes back takes part again. All with the shipped configuration: TLS, accounts, three replicas.
func TestNATSClusterLosesAServer(t *testing.T) {
	c := startNATSCluster(t)
	s := &system{Stack: stacktest.Start(t), nc: c.connect("operator")}
	js, err := jetstream.New(s.nc)
	must(t, err)
	log := slog.New(slog.NewJSONHandler(&refusals{t: t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	env := func(user string) func(string) string {
		return func(name string) string {
			return map[string]string{
				"AUDIT_NATS_URL": c.url(user), "AUDIT_NATS_CA": c.ca(), "AUDIT_NATS_REPLICAS": "3", "AUDIT_CLICKHOUSE_URL": s.ClickHouseURL(),
				"AUDIT_HTTP_ADDR": "127.0.0.1:0", "AUDIT_RATE_LIMIT": "0",
			}[name]
		}
	}
	qCfg, err := query.ConfigFromEnv(env("query"))
	must(t, err)
	starting, giveUp := context.WithCancel(t.Context())
	var waitedFor string
	_, err = query.New(starting, qCfg, query.Deps{Log: log, Registerer: prometheus.NewRegistry(), Waiting: func(err error) {
		if err != nil && strings.Contains(err.Error(), "start an ingester first") {
			waitedFor = err.Error()
			giveUp()
		}
	}})
	giveUp()
	if err == nil || waitedFor == "" {
		t.Fatalf("before there is a stream: %v, waiting for %q, want it to wait for an ingester", err, waitedFor)
	}
	iCfg, err := ingester.ConfigFromEnv(env("ingester"))
	must(t, err)
	for range 2 {
		ing, err := ingester.New(t.Context(), iCfg, ingester.Deps{Log: log, Registerer: prometheus.NewRegistry()})
		must(t, err)
		background(t, ing.Run)
		waitReady(t, ing.Checks())
	}
	q, err := query.New(t.Context(), qCfg, query.Deps{Log: log, Registerer: prometheus.NewRegistry()})
	must(t, err)
	background(t, q.Run)
	waitReady(t, q.Checks())
	s.api = "http://" + q.Addr() + "/v1/audit-log"
	key := s.key(t, tenantA)
	for _, stream := range []string{events.StreamAudit, events.StreamLedger, events.StreamDLQ, "KV_audit_keys", "KV_audit_secrets", "KV_audit_positions", "KV_audit_ingesters"} {
		c.leader(js, stream) // has three replicas
	}

	l := c.load(tenantA)
	l.more(t, 300)
	dead := c.leader(js, events.StreamAudit)
	c.stop(dead)
	l.more(t, 300)
	if status, body := s.request(t, key, tenantA, url.Values{}); status != http.StatusOK {
		t.Errorf("with a server away a page is %d %s", status, body)
	}
	second := s.key(t, tenantA)
	s.get(t, second, tenantA, url.Values{"limit": {"1"}})
	c.start(dead)
	c.ready()
	l.more(t, 300)
	other := (c.leader(js, "KV_audit_keys") + 1) % 3
	c.stop(other)
	l.more(t, 300)
	l.end()

	n := int(l.acked.Load())
	seen := map[uuid.UUID]int{}
	for _, e := range s.walkUntil(t, key, tenantA, 1000, n) {
		seen[e.ID]++
	}
	l.ids.Range(func(id, _ any) bool {
		if seen[id.(uuid.UUID)] != 1 {
			t.Errorf("event %s, acknowledged, is there %d times", id, seen[id.(uuid.UUID)])
		}
		return true
	})
	c.start(other)
	// A server that has come back answers before it has what it missed, and may be the one that is asked.
	early := 0
	for behind := true; behind; {
		behind = c.behind(js)
		var out bytes.Buffer
		if status := ingester.Main(t.Context(), []string{"verify", "--deep"}, env("operator"), nil, &out, &out); status != 0 {
			t.Errorf("verify, a server behind %t: status %d\n%s", behind, status, out.String())
		}
		if behind {
			early++
		}
	}
	t.Logf("verified %d times while a server was behind", early)
	t.Logf("%d events acknowledged, %d shown", n, len(seen))
}
