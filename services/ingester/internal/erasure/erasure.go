// Package erasure replaces people whose erasure was decided by pseudonyms: a function of an event and of the decisions of the control log, so that whoever
// makes a row of a message makes the same one. docs/design/009-erasure.md says why this way.
package erasure

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/control"
)

// prefix begins every pseudonym.
const prefix = "erased-"

// NewPseudonym is random: nothing leads from it to a name.
func NewPseudonym() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}

// NewSalt makes the salt of a tenant: control.SaltBytes random bytes.
func NewSalt() []byte {
	salt := make([]byte, control.SaltBytes)
	_, _ = rand.Read(salt) // never fails
	return salt
}

// Hash is what stands for a name in the control log: SHA-256 over the tenant's salt and the name.
func Hash[T string | []byte](salt []byte, name T) [sha256.Size]byte {
	var room [control.SaltBytes + maxNameBytes]byte // a name that is longer costs memory, no more
	return sha256.Sum256(append(append(room[:0], salt...), name...))
}

// maxNameBytes is how long an actor_id can be.
const maxNameBytes = 256

// Person is an actor of a tenant who was erased.
type Person struct {
	Salt      []byte
	Hash      [sha256.Size]byte
	Pseudonym string
	// Fields are keys of metadata whose values go, at any depth. ResourceTypes are those whose resource_id may be the person. Both are sorted.
	Fields, ResourceTypes []string
	// Decisions are the sequences in the control log that say so, oldest first. Open says that the table is not known to follow all of them.
	Decisions []uint64
	Open      bool
}

// Set is everybody who was erased after a decision of the control log. It never changes, and may be used by several goroutines. Nil has nobody.
type Set struct{ tenants map[uuid.UUID][]*group }

// group is people of a tenant with one salt: all of them, but for one whose log was put together from two.
type group struct {
	salt   []byte
	people map[[sha256.Size]byte]*member
	types  map[string]struct{} // of all
}

type member struct {
	Person
	pseudonym []byte
	fields    Fields
}

// Of is the set of a state, nil when nobody was erased.
func Of(state *control.State) *Set {
	tenants := state.ErasedTenants()
	if len(tenants) == 0 {
		return nil
	}
	s := &Set{tenants: make(map[uuid.UUID][]*group, len(tenants))}
	for _, t := range tenants {
		for _, r := range state.Erasures(t) {
			s.add(t, r, state.IsErasing(r.Seq))
		}
	}
	return s
}

// add takes in a decision. One about somebody who was erased before adds to what goes.
func (s *Set) add(tenant uuid.UUID, r control.Record, open bool) {
	e := r.Erase
	salt, hash := e.Salt[:], [sha256.Size]byte(e.ActorHash)
	i := slices.IndexFunc(s.tenants[tenant], func(g *group) bool { return bytes.Equal(g.salt, salt) })
	if i < 0 {
		i = len(s.tenants[tenant])
		s.tenants[tenant] = append(s.tenants[tenant], &group{salt: salt, people: map[[sha256.Size]byte]*member{}, types: map[string]struct{}{}})
	}
	g := s.tenants[tenant][i]
	m := g.people[hash]
	if m == nil {
		m = &member{Person: Person{Salt: salt, Hash: hash, Pseudonym: e.Pseudonym}, pseudonym: []byte(e.Pseudonym), fields: Fields{}}
		g.people[hash] = m
	}
	m.Decisions, m.Open = append(m.Decisions, r.Seq), m.Open || open
	m.Fields, m.ResourceTypes = union(m.Fields, e.Fields), union(m.ResourceTypes, e.ResourceTypes)
	for _, f := range e.Fields {
		m.fields[f] = struct{}{}
	}
	for _, t := range e.ResourceTypes {
		g.types[t] = struct{}{}
	}
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// People are those of a tenant who were erased, in the order in which they were.
func (s *Set) People(tenant uuid.UUID) (out []Person) {
	if s == nil {
		return nil
	}
	for _, g := range s.tenants[tenant] {
		for _, m := range g.people {
			out = append(out, m.Person)
		}
	}
	slices.SortFunc(out, func(a, b Person) int { return int(a.Decisions[0]) - int(b.Decisions[0]) }) //nolint:gosec // sequences of a short log
	return out
}

// Find returns the person of a name.
func (s *Set) Find(tenant uuid.UUID, name string) (Person, bool) {
	if s == nil {
		return Person{}, false
	}
	for _, g := range s.tenants[tenant] {
		if m := g.people[Hash(g.salt, name)]; m != nil {
			return m.Person, true
		}
	}
	return Person{}, false
}

// IsPseudonym says whether somebody of the tenant has the pseudonym.
func (s *Set) IsPseudonym(tenant uuid.UUID, name string) bool {
	return strings.HasPrefix(name, prefix) && slices.ContainsFunc(s.People(tenant), func(p Person) bool { return p.Pseudonym == name })
}

// Outcome is what Apply did.
type Outcome struct {
	// Changed says that the event tells of somebody who was erased; Open that the table may still have it as it was.
	Changed, Open bool
}

// Apply replaces in an event who was erased, and what goes with them. The texts of ev are replaced, never written to.
func (s *Set) Apply(tenant uuid.UUID, ev *events.Raw) (out Outcome) {
	if s == nil {
		return out
	}
	for _, g := range s.tenants[tenant] {
		g.apply(ev, &out)
	}
	return out
}

func (g *group) apply(ev *events.Raw, out *Outcome) {
	actor := g.people[Hash(g.salt, ev.ActorID)]
	var resource *member
	if _, may := g.types[string(ev.ResourceType)]; may {
		if m := g.people[Hash(g.salt, ev.ResourceID)]; m != nil && slices.Contains(m.ResourceTypes, string(ev.ResourceType)) {
			resource = m
		}
	}
	if actor != nil {
		ev.ActorID = actor.pseudonym
		actor.strip(ev, out)
	}
	if resource != nil {
		ev.ResourceID = resource.pseudonym
		resource.strip(ev, out)
	}
}

func (m *member) strip(ev *events.Raw, out *Outcome) {
	out.Changed, out.Open = true, out.Open || m.Open
	if len(m.fields) > 0 {
		ev.Metadata, _ = m.fields.Strip(ev.Metadata)
	}
}

// Live is the newest Set, for who applies it while others are decided on. The zero value has nobody.
type Live struct{ set atomic.Pointer[Set] }

// Store makes s the newest.
func (l *Live) Store(s *Set) { l.set.Store(s) }

// Apply is Set.Apply of the newest. Where nobody was erased it costs a load.
func (l *Live) Apply(tenant uuid.UUID, ev *events.Raw) { l.set.Load().Apply(tenant, ev) }
