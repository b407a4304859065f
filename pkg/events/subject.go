package events

import (
	"errors"
	"strconv"

	"github.com/google/uuid"
)

// Names on NATS. docs/design/001-architecture.md says what each stream is for.
const (
	// StreamAudit takes SubjectEvents, stores as SubjectLog and is the source of truth.
	StreamAudit = "AUDIT"
	// StreamDLQ holds the messages that were refused, bytes untouched.
	StreamDLQ = "AUDIT_DLQ"
	// StreamLedger holds the borders of the batches written to the table.
	StreamLedger = "AUDIT_LEDGER"
	// StreamControl holds what operators decided about events that are stored: retention, legal hold, erasure, offboarding.
	StreamControl = "AUDIT_CONTROL"

	// SubjectEvents is what producers publish to; the last token is the tenant.
	SubjectEvents = "audit.events.*"
	// SubjectLog is how StreamAudit stores: partition, tenant.
	SubjectLog = "audit.log.*.*"
	// SubjectDLQ is where refused messages go; the last token is the tenant.
	SubjectDLQ = "audit.dlq.*"
	// SubjectLedger has one subject for each partition.
	SubjectLedger = "audit.ledger.*"
	// SubjectControl has one subject for each tenant, and one for what concerns all of them.
	SubjectControl = "audit.control.*"
)

// Headers of a message in StreamDLQ.
const (
	// HeaderError says why it was refused: each Fault as "field: rule", joined by "; ".
	HeaderError = "Audit-Error"
	// HeaderField names the fields at fault, each once, joined by ",".
	HeaderField = "Audit-Field"
	// HeaderSequence is its sequence in StreamAudit, in decimal.
	HeaderSequence = "Audit-Sequence"
	// HeaderSubject is the subject StreamAudit stored it under.
	HeaderSubject = "Audit-Subject"
	// HeaderReceived is StreamAudit's timestamp of it, RFC 3339 in UTC with nanoseconds.
	HeaderReceived = "Audit-Received"
	// HeaderRefused is when it was refused, in the same form.
	HeaderRefused = "Audit-Refused"
)

const (
	prefixEvents  = "audit.events."
	prefixLog     = "audit.log."
	prefixDLQ     = "audit.dlq."
	prefixLedger  = "audit.ledger."
	prefixControl = "audit.control."

	// maxPartition bounds what ParseLogSubject takes for a partition; the table's column has 16 bits.
	maxPartition = 1<<16 - 1
)

// ErrLogSubject is returned by ParseLogSubject for a subject that StreamAudit does not store under, or whose tenant is not a lower-case UUID.
var ErrLogSubject = errors.New("subject is not audit.log.<partition>.<tenant UUID in lower case>")

// Subject is where the events of a tenant are published: audit.events.<tenant>.
func Subject(tenant uuid.UUID) string { return subject(prefixEvents, tenant) }

// DLQSubject is where the refused events of a tenant go: audit.dlq.<tenant>.
func DLQSubject(tenant uuid.UUID) string { return subject(prefixDLQ, tenant) }

// LogSubject is how StreamAudit stores the events of a tenant: audit.log.<partition>.<tenant>.
func LogSubject(partition int, tenant uuid.UUID) string {
	return subject(prefixLog+strconv.Itoa(partition)+".", tenant)
}

// PartitionSubject is that of all messages of a partition in StreamAudit: audit.log.<partition>.*.
func PartitionSubject(partition int) string { return prefixLog + strconv.Itoa(partition) + ".*" }

// LedgerSubject is where the batches of a partition are written down: audit.ledger.<partition>.
func LedgerSubject(partition int) string { return prefixLedger + strconv.Itoa(partition) }

// ControlSubject is where decisions about a tenant are written down: audit.control.<tenant>, or audit.control.all when it is nil.
func ControlSubject(tenant *uuid.UUID) string {
	if tenant == nil {
		return prefixControl + "all"
	}
	return subject(prefixControl, *tenant)
}

func subject(prefix string, tenant uuid.UUID) string {
	return string(appendUUID(append(make([]byte, 0, 64), prefix...), tenant))
}

// ParseLogSubject reads a subject of StreamAudit. It does not allocate. The tenant must be in its canonical form, lower case: another spelling of
// the same UUID hashes to another partition, and one tenant must not live in two.
func ParseLogSubject(subject string) (partition int, tenant uuid.UUID, err error) {
	if len(subject) < len(prefixLog) || subject[:len(prefixLog)] != prefixLog {
		return 0, uuid.Nil, ErrLogSubject
	}
	rest := subject[len(prefixLog):]
	i := 0
	for ; i < len(rest) && rest[i] != '.'; i++ {
		c := rest[i] - '0'
		if c > 9 || (i == 1 && rest[0] == '0') {
			return 0, uuid.Nil, ErrLogSubject
		}
		if partition = partition*10 + int(c); partition > maxPartition {
			return 0, uuid.Nil, ErrLogSubject
		}
	}
	if i == 0 || i == len(rest) {
		return 0, uuid.Nil, ErrLogSubject
	}
	tenant, ok := parseUUID(rest[i+1:], lowerCase)
	if !ok {
		return 0, uuid.Nil, ErrLogSubject
	}
	return partition, tenant, nil
}

// Partition is the number, from 0 to partitions-1, of the partition that holds a tenant's events: FNV-1a (32 bit) of the tenant's lower-case
// text modulo partitions, which is what partition() in the stream's subject transform computes. partitions must be at least 1.
func Partition(tenant uuid.UUID, partitions int) int {
	const offset, prime = 2166136261, 16777619
	var text [36]byte
	encodeUUID(&text, tenant)
	h := uint32(offset)
	for _, c := range text {
		h = (h ^ uint32(c)) * prime
	}
	return int(h % uint32(partitions)) //nolint:gosec // the stream's own partition count, a small positive number
}
