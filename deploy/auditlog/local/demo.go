package local

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"example.com/auditlog/deploy/auditlog/internal/company"
	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/settings"
	query "example.com/auditlog/services/query/app"
)

// Bounds of the demonstration.
const (
	// DefaultDemoEvents is how many events the generated day has.
	DefaultDemoEvents = 20_000
	maxDemoEvents     = 5_000_000
	demoKeyLife       = time.Hour
	demoPageLimit     = 5
	// demoPatience is how long a published event may take to show before the demo gives up.
	demoPatience = 30 * time.Second
	// demoSettle is how long the first page must stay the same to be shown.
	demoSettle = 500 * time.Millisecond
)

func demoCommand(getenv func(string) string, stdout, stderr io.Writer) *cobra.Command {
	count := DefaultDemoEvents
	cmd := &cobra.Command{
		Use:   "demo [FILE.ndjson[.gz]]",
		Short: "Publish a generated day of a fictional company, or a file, to the running system and show the first page",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > maxDemoEvents {
				return &settingsError{fmt.Errorf("--events must be from 1 to %d", maxDemoEvents)}
			}
			d := demo{getenv: getenv, stdout: stdout, stderr: stderr}
			if len(args) == 1 {
				return d.file(cmd.Context(), args[0])
			}
			return d.day(cmd.Context(), count)
		},
	}
	cmd.Flags().IntVar(&count, "events", count, "how many events the generated day has")
	return cmd
}

// demo publishes through the publish command beside this one, the same that users have, and reads through the API.
type demo struct {
	getenv         func(string) string
	stdout, stderr io.Writer
}

// day publishes yesterday: a whole day, the same each time, so that a second run the same day changes nothing.
func (d *demo) day(ctx context.Context, n int) error {
	yesterday := time.Now().UTC().AddDate(0, 0, -1)
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeDay(w, yesterday, n)) }()
	defer r.Close()
	fmt.Fprintf(d.stdout, "A day at Halden Freight: %d events of %s, %d tenants\n", n, yesterday.Format(time.DateOnly), len(company.Tenants))
	if err := d.publish(ctx, r); err != nil {
		return err
	}
	return d.firstPage(ctx, company.Tenants[0].ID)
}

func (d *demo) file(ctx context.Context, path string) error {
	tenant, err := firstTenant(path)
	if err != nil {
		return err
	}
	if err := d.publish(ctx, nil, path); err != nil {
		return err
	}
	return d.firstPage(ctx, tenant)
}

func (d *demo) publish(ctx context.Context, in io.Reader, args ...string) error {
	bin, err := sibling("publish")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, d.stdout, d.stderr
	cmd.Env = append(os.Environ(), "AUDIT_NATS_URL="+d.getenv("AUDIT_NATS_URL"))
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// sibling is the path of a command that was built beside this one.
func sibling(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this command's folder: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not beside this command; run make build", name)
	}
	return path, nil
}

func writeDay(w io.Writer, day time.Time, n int) error {
	buf := bufio.NewWriter(w)
	for ev := range company.Day(day, n) {
		wire, err := ev.Encode()
		if err != nil {
			return fmt.Errorf("encode a generated event: %w", err)
		}
		// A line is the wire object plus the tenant, which a message has in its subject.
		if _, err := fmt.Fprintf(buf, "{\"tenant_id\":%q,%s\n", ev.TenantID, wire[1:]); err != nil {
			return err
		}
	}
	return buf.Flush()
}

// firstTenant is the tenant of a file's first line that names one.
func firstTenant(path string) (uuid.UUID, error) {
	f, err := os.Open(path)
	if err != nil {
		return uuid.Nil, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return uuid.Nil, fmt.Errorf("read %s: %w", path, err)
		}
		in = bufio.NewReaderSize(z, 1<<20)
	}
	for {
		line, err := in.ReadSlice('\n')
		var ev struct {
			TenantID uuid.UUID `json:"tenant_id"`
		}
		if json.Unmarshal(line, &ev) == nil && ev.TenantID != uuid.Nil {
			return ev.TenantID, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return uuid.Nil, fmt.Errorf("%s has no line with a tenant_id", path)
		}
	}
}

// firstPage waits until the tenant's newest events show, and no newer ones come, and prints them as the API gives them.
func (d *demo) firstPage(ctx context.Context, tenant uuid.UUID) error {
	cfg, err := ConfigFromEnv(d.getenv)
	if err != nil {
		return &settingsError{err}
	}
	key, err := d.key(ctx, tenant)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	at := pageURL(cfg.HTTPAddr, url.Values{"limit": {fmt.Sprint(demoPageLimit)}})
	var last []byte
	for {
		body, empty, err := getPage(ctx, at, key, tenant)
		if err != nil {
			return fmt.Errorf("read the first page: %w", err)
		}
		settled := bytes.Equal(body, last)
		if last = body; settled && !empty {
			fmt.Fprintf(d.stdout, "\nThe newest events of tenant %s, from %s:\n%s\n\n", tenant, at, body)
			fmt.Fprintln(d.stdout, "Read on:\n  "+curl(at, key, tenant))
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing shows at %s after %s: look at the ingester's log", at, demoPatience)
		case <-time.After(demoSettle):
		}
	}
}

// key makes a key that lives for an hour, so that a demonstration leaves no door open.
func (d *demo) key(ctx context.Context, tenant uuid.UUID) (string, error) {
	r := settings.New(d.getenv)
	cfg := natsconn.FromSettings(r)
	if err := r.Err(); err != nil {
		return "", &settingsError{err}
	}
	nc, err := natsconn.Connect(cfg, "auditlog demo", slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer nc.Close()
	key, err := query.CreateKey(ctx, nc, query.KeySpec{Tenant: tenant, Name: "demo", Expires: demoKeyLife})
	if err != nil {
		return "", fmt.Errorf("make a key to read with: %w", err)
	}
	return key.Key, nil
}

func getPage(ctx context.Context, at, key string, tenant uuid.UUID) (body []byte, empty bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("X-API-Key", key)
	req.Header.Set("X-Tenant-ID", tenant.String())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20)); err != nil {
		return nil, false, err
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, true, nil // the service follows the key bucket; the new key has not reached it yet
	case resp.StatusCode != http.StatusOK:
		return nil, false, fmt.Errorf("%s: %s", resp.Status, body)
	}
	var page struct {
		Data []json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, false, err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, body, "", "  "); err != nil {
		return nil, false, err
	}
	return pretty.Bytes(), len(page.Data) == 0, nil
}
