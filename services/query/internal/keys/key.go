// Package keys holds the API keys: what they are, where they are kept, and a copy in memory that follows the store.
package keys

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// DefaultRole is the role of a key that is given none: it reads all of its tenant's log.
const DefaultRole = "auditor"

// RoleSelf is the role that reads the events of the key's own actor.
const RoleSelf = "self"

// Bounds of a key's attributes.
const (
	// MaxText bounds names, actors and types in bytes, as the fields of an event are bounded.
	MaxText = 256
	// MaxList bounds roles, resource types and networks.
	MaxList = 64
	// MaxLife is the longest life of a key that ends at all.
	MaxLife = 100 * 365 * 24 * time.Hour
)

var roleName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)

// Key is what is known of an API key. The key's text is not: only its hash is kept.
type Key struct {
	ID     string    `json:"id"`
	Hash   digest    `json:"hash"`
	Tenant uuid.UUID `json:"tenant_id"`
	Name   string    `json:"name"`
	Roles  []string  `json:"roles"`
	// Actor and ActorType name whom the key acts for; empty when for nobody in particular.
	Actor     string `json:"actor,omitempty"`
	ActorType string `json:"actor_type,omitempty"`
	// ResourceTypes limits the key to events on these types; empty means no limit.
	ResourceTypes []string `json:"resource_types,omitempty"`
	// Sources are the networks that the key may be used from; empty means all.
	Sources   []netip.Prefix `json:"sources,omitempty"`
	CreatedAt time.Time      `json:"created_at"`
	ExpiresAt *time.Time     `json:"expires_at,omitempty"`
	RevokedAt *time.Time     `json:"revoked_at,omitempty"`
}

// State is active, revoked or expired.
func (k *Key) State(now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt != nil && !now.Before(*k.ExpiresAt):
		return "expired"
	}
	return "active"
}

// usable says whether the key opens anything now, from this address.
func (k *Key) usable(now time.Time, source netip.Addr) bool {
	return k.State(now) == "active" && k.admits(source)
}

func (k *Key) admits(source netip.Addr) bool {
	if len(k.Sources) == 0 {
		return true
	}
	source = source.Unmap()
	return slices.ContainsFunc(k.Sources, func(p netip.Prefix) bool { return p.Contains(source) })
}

// Spec says what a new key shall be.
type Spec struct {
	// Tenant is whose log the key opens.
	Tenant uuid.UUID
	// Name tells people what the key is for.
	Name string
	// Roles default to DefaultRole.
	Roles []string
	// Actor and ActorType name whom the key acts for; RoleSelf needs an actor.
	Actor, ActorType string
	// ResourceTypes limits the key; empty means no limit.
	ResourceTypes []string
	// Sources are the networks that the key may be used from; empty means all.
	Sources []netip.Prefix
	// Expires is the key's life; 0 means for ever.
	Expires time.Duration
}

// Validate reports every fault of the spec at once.
func (s *Spec) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if err := textFault(s.Name); err != "" {
		fault("the name (--name) %s", err)
	}
	if s.Tenant == uuid.Nil {
		fault("the tenant (--tenant) is missing")
	}
	for _, r := range s.Roles {
		if !roleName.MatchString(r) {
			fault("the role (--role) %q must be a letter, then up to 63 letters, digits, dots, dashes or underscores", r)
		}
	}
	if slices.Contains(s.Roles, RoleSelf) && s.Actor == "" {
		fault("the role %q reads the events of one actor: name it with --actor", RoleSelf)
	}
	if s.Actor == "" && s.ActorType != "" {
		fault("an actor type (--actor-type) without an actor: name it with --actor")
	}
	for what, list := range map[string][]string{"actor (--actor)": {s.Actor}, "actor type (--actor-type)": {s.ActorType}} {
		if list[0] != "" && textFault(list[0]) != "" {
			fault("the %s %s", what, textFault(list[0]))
		}
	}
	for _, t := range s.ResourceTypes {
		if err := textFault(t); err != "" {
			fault("the resource type (--resource-type) %q %s", t, err)
		}
	}
	if max(len(s.Roles), len(s.ResourceTypes), len(s.Sources)) > MaxList {
		fault("roles, resource types and sources may be at most %d each", MaxList)
	}
	if s.Expires < 0 || s.Expires > MaxLife {
		fault("the life (--expires) must be from now to 36500d")
	}
	return errors.Join(faults...)
}

// textFault says what is wrong with a text by the rules that event fields obey, or nothing.
func textFault(s string) string {
	switch {
	case s == "":
		return "is missing"
	case len(s) > MaxText:
		return fmt.Sprintf("has %d bytes, more than %d", len(s), MaxText)
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "holds control characters"
	}
	return ""
}

// key makes the key that the spec describes, and its text.
func (s *Spec) key(now time.Time) (Key, string) {
	id, text := newText()
	k := Key{
		ID: id, Hash: digestOf(text), Tenant: s.Tenant, Name: s.Name, Roles: s.Roles, Actor: s.Actor, ActorType: s.ActorType,
		ResourceTypes: s.ResourceTypes, Sources: s.Sources, CreatedAt: now.UTC().Truncate(time.Microsecond),
	}
	if len(k.Roles) == 0 {
		k.Roles = []string{DefaultRole}
	}
	if s.Expires > 0 {
		end := k.CreatedAt.Add(s.Expires)
		k.ExpiresAt = &end
	}
	return k, text
}
