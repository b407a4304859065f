// Package natsconn connects a service to NATS as its settings say: URL, credentials file, certificate authority.
package natsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"example.com/auditlog/pkg/service/settings"
)

// DefaultURL is where the local stack listens.
const DefaultURL = "nats://127.0.0.1:4222"

const (
	// reconnectWait is the pause between attempts to reconnect; nats.go adds jitter to it.
	reconnectWait = 250 * time.Millisecond
	// pingEvery and pingsUnanswered bound how long a server that has vanished without a word, as with its machine, keeps a connection: nats.go's own
	// defaults are minutes.
	pingEvery       = 5 * time.Second
	pingsUnanswered = 2
	// awaitPause is between the attempts of Await.
	awaitPause = time.Second
	// logEvery is at which attempts Await says that it still waits.
	logEvery = 10
)

// Config says which NATS to talk to.
type Config struct {
	// URL is one or, separated by commas, several server URLs (AUDIT_NATS_URL).
	URL string
	// Creds is the path of a NATS credentials file (AUDIT_NATS_CREDS); empty for none.
	Creds string
	// CA is the path of a PEM file with the authorities to trust (AUDIT_NATS_CA); empty for the system's.
	CA string
}

// FromSettings reads the AUDIT_NATS_* variables.
func FromSettings(r *settings.Reader) Config {
	cfg := Config{
		URL:   r.String("AUDIT_NATS_URL", DefaultURL),
		Creds: r.File("AUDIT_NATS_CREDS"),
		CA:    r.File("AUDIT_NATS_CA"),
	}
	for server := range strings.SplitSeq(cfg.URL, ",") {
		if !validServer(strings.TrimSpace(server)) {
			// The text may hold a password.
			r.Faultf("AUDIT_NATS_URL", "must be server URLs with one of the schemes %v, separated by commas, such as %s", schemes, DefaultURL)
			break
		}
	}
	return cfg
}

// schemes are what nats.go connects by; a server without one is taken for nats://.
var schemes = []string{"nats", "tls", "ws", "wss"}

func validServer(server string) bool {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	u, err := url.Parse(server)
	return err == nil && u.Hostname() != "" && slices.Contains(schemes, u.Scheme)
}

// Check says what is wrong with a connection, nil when it is up.
func Check(nc *nats.Conn) error {
	if st := nc.Status(); st != nats.CONNECTED {
		return fmt.Errorf("the connection to NATS is %s", strings.ToLower(st.String()))
	}
	return nil
}

// Await is Connect for a service, which outlasts a NATS that is not there yet: it tries until it succeeds, ctx is done, or the server refuses for a
// reason that somebody has to do something about. waiting is told why, at each attempt that fails.
func Await(ctx context.Context, cfg Config, name string, log *slog.Logger, waiting func(error), extra ...nats.Option) (*nats.Conn, error) {
	for try := 0; ; try++ {
		nc, err := Connect(cfg, name, log, extra...)
		if err == nil || refused(err) {
			return nc, err
		}
		waiting(err)
		if try%logEvery == 0 {
			log.WarnContext(ctx, "NATS cannot be reached, trying again until it can", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w while waiting: %w", context.Cause(ctx), err)
		case <-time.After(awaitPause):
		}
	}
}

// refused says that the server is there and will not have us: wrong credentials, or a certificate that we do not trust.
func refused(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate) || slices.ContainsFunc([]error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrNkeysNotSupported,
		nats.ErrSecureConnRequired, nats.ErrSecureConnWanted,
	}, func(known error) bool { return errors.Is(err, known) })
}

// Connect opens a connection that reconnects for ever, also when the server refuses it for a while. The first attempt must succeed, so that a wrong URL
// is an error of a command and not a log line. The caller closes it.
func Connect(cfg Config, name string, log *slog.Logger, extra ...nats.Option) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsUnanswered),
		// A user that is missing while the server's configuration is changed must not end the connection for good.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost, reconnecting", slog.Any("error", err))
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("NATS connection back", slog.String("server", c.ConnectedServerName())) }),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			subject := ""
			if s != nil {
				subject = s.Subject
			}
			log.Warn("NATS reported an error", slog.Any("error", err), slog.String("subject", subject))
		}),
	}
	if cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	if cfg.CA != "" {
		opts = append(opts, nats.RootCAs(cfg.CA))
	}
	nc, err := nats.Connect(cfg.URL, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s (AUDIT_NATS_URL): %w", addresses(cfg.URL), err)
	}
	return nc, nil
}

// addresses is the servers' hosts and ports without what else their URLs may hold, such as a password.
func addresses(servers string) string {
	var out []string
	for server := range strings.SplitSeq(servers, ",") {
		if server = strings.TrimSpace(server); !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		if u, err := url.Parse(server); err == nil {
			out = append(out, u.Host)
		}
	}
	return strings.Join(out, ", ")
}
