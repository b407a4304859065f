package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/settings"
	"example.com/auditlog/services/query/internal/keys"
)

// commandTimeout bounds what a command does on NATS.
const commandTimeout = 15 * time.Second

func (c *cli) keysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Create, list, revoke and rotate API keys", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Usage()
			return &settingsError{errors.New("name a command: create, list, show, revoke or rotate")}
		}}
	cmd.AddCommand(c.createKey(), c.listKeys(), c.showKey(), c.revokeKey(), c.rotateKey())
	return cmd
}

// withKeys runs f on the bucket of the keys.
func (c *cli) withKeys(ctx context.Context, f func(context.Context, *keys.Store) error) error {
	return c.withNATS(ctx, func(ctx context.Context, nc *nats.Conn) error {
		store, err := keys.OpenStore(ctx, nc)
		if err != nil {
			return err
		}
		return f(ctx, store)
	})
}

// withUses runs f on the bucket of the keys and the times of their last uses.
func (c *cli) withUses(ctx context.Context, f func(context.Context, *keys.Store, map[string]time.Time) error) error {
	return c.withNATS(ctx, func(ctx context.Context, nc *nats.Conn) error {
		store, err := keys.OpenStore(ctx, nc)
		if err != nil {
			return err
		}
		uses, err := keys.LastUses(ctx, nc)
		if err != nil {
			return err
		}
		return f(ctx, store, uses)
	})
}

func (c *cli) withNATS(ctx context.Context, f func(context.Context, *nats.Conn) error) error {
	r := settings.New(c.getenv)
	cfg := natsconn.FromSettings(r)
	if err := r.Err(); err != nil {
		return &settingsError{fmt.Errorf("settings:\n%w", err)}
	}
	nc, err := natsconn.Connect(cfg, "auditlog-query-cli", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return f(ctx, nc)
}

func (c *cli) createKey() *cobra.Command {
	var tenant, expires string
	var sources []string
	var asJSON bool
	var spec keys.Spec
	cmd := &cobra.Command{Use: "create --tenant UUID --name NAME", Short: "Create a key and print it, this once", Args: usage(cobra.NoArgs)}
	f := cmd.Flags()
	f.StringVar(&tenant, "tenant", "", "UUID of the tenant whose log the key opens (required)")
	f.StringVar(&spec.Name, "name", "", "what the key is for (required)")
	f.StringArrayVar(&spec.Roles, "role", nil, "role for the policies: auditor (default), admin, self, or one of yours; may be repeated")
	f.StringVar(&spec.Actor, "actor", "", "id of the actor that the key acts for; the role self needs it")
	f.StringVar(&spec.ActorType, "actor-type", "", "type of that actor")
	f.StringArrayVar(&spec.ResourceTypes, "resource-type", nil, "limit the key to events on this resource type; may be repeated")
	f.StringArrayVar(&sources, "source", nil, "limit the key to callers of this network, such as 203.0.113.0/24; may be repeated")
	f.StringVar(&expires, "expires", "", "life of the key, such as 90d or 12h (default: for ever)")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var faults []error
		var err error
		if spec.Tenant, err = parseTenant(tenant); err != nil {
			faults = append(faults, err)
		}
		if spec.Expires, err = parseLife(expires); err != nil {
			faults = append(faults, err)
		}
		if spec.Sources, err = parseSources(sources); err != nil {
			faults = append(faults, err)
		}
		checked := spec
		if checked.Tenant == uuid.Nil && tenant != "" {
			checked.Tenant = uuid.Max // its own fault has been noted
		}
		faults = append(faults, checked.Validate())
		if err := errors.Join(faults...); err != nil {
			return &settingsError{err}
		}
		return c.withKeys(cmd.Context(), func(ctx context.Context, s *keys.Store) error {
			k, text, err := s.Create(ctx, spec)
			if err != nil {
				return err
			}
			return c.printCreated(k, text, asJSON)
		})
	}
	return cmd
}

func (c *cli) printCreated(k keys.Key, text string, asJSON bool) error {
	if asJSON {
		return c.printJSON(created(k, text))
	}
	_, err := fmt.Fprintf(c.stdout, "id       %s\ntenant   %s\nname     %s\nroles    %s\nexpires  %s\nkey      %s\n\nKeep the key: only its hash is stored, it cannot be shown again.\n",
		k.ID, k.Tenant, k.Name, strings.Join(k.Roles, ", "), moment(k.ExpiresAt, "never"), text)
	return err
}

func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// keyInfo is a key as the commands show it: everything but its hash.
type keyInfo struct {
	ID            string         `json:"id"`
	TenantID      uuid.UUID      `json:"tenant_id"`
	Name          string         `json:"name"`
	Roles         []string       `json:"roles"`
	Actor         string         `json:"actor,omitempty"`
	ActorType     string         `json:"actor_type,omitempty"`
	ResourceTypes []string       `json:"resource_types,omitempty"`
	Sources       []netip.Prefix `json:"sources,omitempty"`
	State         string         `json:"state"`
	CreatedAt     time.Time      `json:"created_at"`
	ExpiresAt     *time.Time     `json:"expires_at"`
	RevokedAt     *time.Time     `json:"revoked_at"`
	// LastUsedAt is exact to keys.UseEvery.
	LastUsedAt *time.Time `json:"last_used_at"`
}

func info(k *keys.Key, uses map[string]time.Time) keyInfo {
	i := keyInfo{k.ID, k.Tenant, k.Name, k.Roles, k.Actor, k.ActorType, k.ResourceTypes, k.Sources, k.State(time.Now()), k.CreatedAt, k.ExpiresAt, k.RevokedAt, nil}
	if at, ok := uses[k.ID]; ok {
		i.LastUsedAt = &at
	}
	return i
}

func (c *cli) listKeys() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "list", Short: "List all keys, the oldest first", Args: usage(cobra.NoArgs)}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withUses(cmd.Context(), func(ctx context.Context, s *keys.Store, uses map[string]time.Time) error {
			all, err := s.List(ctx)
			if err != nil {
				return err
			}
			infos := make([]keyInfo, len(all))
			for i := range all {
				infos[i] = info(&all[i], uses)
			}
			if asJSON {
				return c.printJSON(infos)
			}
			return printTable(c.stdout, infos)
		})
	}
	return cmd
}

func printTable(out io.Writer, infos []keyInfo) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tTENANT\tNAME\tROLES\tSTATE\tCREATED\tEXPIRES\tLAST USED")
	for _, k := range infos {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.TenantID, k.Name, strings.Join(k.Roles, ","), k.State,
			moment(&k.CreatedAt, ""), moment(k.ExpiresAt, "never"), moment(k.LastUsedAt, "never"))
	}
	return w.Flush()
}

func moment(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}

func (c *cli) showKey() *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Show a key's attributes as JSON; the key itself is not kept", Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withUses(cmd.Context(), func(ctx context.Context, s *keys.Store, uses map[string]time.Time) error {
				k, err := s.Get(ctx, args[0])
				if err != nil {
					return err
				}
				return c.printJSON(info(&k, uses))
			})
		}}
}

func (c *cli) revokeKey() *cobra.Command {
	return &cobra.Command{Use: "revoke ID", Short: "End a key's life, within a second everywhere", Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withKeys(cmd.Context(), func(ctx context.Context, s *keys.Store) error {
				changed, err := s.Revoke(ctx, args[0])
				if err != nil {
					return err
				}
				said := "revoked"
				if !changed {
					said = "was revoked already"
				}
				_, err = fmt.Fprintf(c.stdout, "%s %s\n", args[0], said)
				return err
			})
		}}
}

func (c *cli) rotateKey() *cobra.Command {
	var grace, expires string
	var asJSON bool
	cmd := &cobra.Command{Use: "rotate ID", Short: "Replace a key by a new one with the same attributes", Args: usage(cobra.ExactArgs(1))}
	cmd.Flags().StringVar(&grace, "grace", "", "how long the old key goes on, such as 24h (default: it is revoked at once)")
	cmd.Flags().StringVar(&expires, "expires", "", "life of the new key (default: it ends when the old one would have)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		graceLife, err := parseLife(grace)
		if err != nil {
			return &settingsError{err}
		}
		newLife, err := parseLife(expires)
		if err != nil {
			return &settingsError{err}
		}
		return c.withKeys(cmd.Context(), func(ctx context.Context, s *keys.Store) error {
			k, text, err := s.Rotate(ctx, args[0], graceLife, newLife)
			if k.ID == "" {
				return err
			}
			// The new key is in force even if the old one could not be ended: whoever asked must have it.
			return errors.Join(c.printCreated(k, text, asJSON), err)
		})
	}
	return cmd
}

func parseTenant(s string) (uuid.UUID, error) {
	if s == "" {
		return uuid.Nil, nil // that it is missing is for the spec to say
	}
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return uuid.Nil, fmt.Errorf("the tenant (--tenant) %q must be a UUID of the form 8-4-4-4-12", s)
	}
	return id, nil
}

// parseLife reads 90d, 12h, 1h30m; nothing means 0.
func parseLife(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if days, found := strings.CutSuffix(s, "d"); found {
		var n int
		if n, err = strconv.Atoi(days); err == nil && n <= int(keys.MaxLife/(24*time.Hour)) {
			d = time.Duration(n) * 24 * time.Hour
		}
	}
	if err != nil || d <= 0 || d > keys.MaxLife {
		return 0, fmt.Errorf("%q must be a duration from now to 36500d, such as 90d or 12h", s)
	}
	return d, nil
}

func parseSources(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			if a, aerr := netip.ParseAddr(s); aerr == nil {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("the source (--source) %q must be a network such as 203.0.113.0/24, or an address", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
