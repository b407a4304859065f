// Package policy decides who may read the audit log and which of its rows. It is the only package that knows Cedar.
//
// A request is decided twice by the same set of policies. The gate asks Cedar whether the key may query the log at all. The row filter
// asks which rows: the policies for ReadEvent are evaluated with everything known but the row, and what is left of them becomes a
// condition of the SQL. A Scope carries that condition; without one nothing can be read, and its zero value selects nothing.
//
// Everything here fails closed: a panic, a policy that cannot be evaluated, an expression without translation all mean "no".
package policy

import (
	"net/netip"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// Principal is who asks: an API key as authenticated.
type Principal struct {
	KeyID  string
	Tenant uuid.UUID
	Roles  []string
	// ActorID and ActorType name whom the key acts for; empty when for nobody in particular.
	ActorID, ActorType string
	// ResourceTypes limits the key to events on these types; empty means no limit.
	ResourceTypes []string
	// ExpiresAt is the end of the key's life; the zero time means never.
	ExpiresAt time.Time
}

// Action is what a request wants to do with the log.
type Action string

// Actions of requests. Single events, pages and feeds are queries.
const (
	QueryLog  Action = "QueryLog"
	ExportLog Action = "ExportLog"
)

// Request is one question to the engine.
type Request struct {
	Principal Principal
	// Tenant is whose log is asked for, whoever the key belongs to.
	Tenant uuid.UUID
	Action Action
	Filter audit.Filter
	// Limit is the page size asked for, 0 when there is none.
	Limit int
	// SourceIP is the caller's address; the zero value means unknown.
	SourceIP netip.Addr
	// Now is the time of the request; policies see this one moment throughout. The zero time means the time of the call.
	Now time.Time
}

// Codes of a Decision beside those that policies declare with @code.
const (
	CodeForbidden        = "forbidden"
	CodeEvaluationFailed = "policy_evaluation_failed"
)

// Decision is the answer. Unless Allowed is true, Scope selects nothing.
type Decision struct {
	Allowed bool
	// Code names the denial: CodeForbidden, the @code that all determining policies share, or CodeEvaluationFailed. Empty when allowed.
	Code string
	// Notices are the @notice texts of the policies that forbade it, sorted, each once; nil when no policy did.
	Notices []string
	// Policies are the ids of the determining policies, sorted, for the log and not for the caller.
	Policies []string
	// Scope is the rows that the key may see.
	Scope Scope
}
