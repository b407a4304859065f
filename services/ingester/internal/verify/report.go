package verify

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// Kind is what a finding is about.
type Kind string

// The kinds.
const (
	// Missing: an event of the stream that the ledger counts as inserted is not in the table, nor is an older copy of it.
	Missing Kind = "missing"
	// Duplicate: a message is in the table more than once.
	Duplicate Kind = "duplicate"
	// Differing: a row holds something else than its message.
	Differing Kind = "differing"
	// Unerased: a row has the name, or what goes with it, of somebody whose erasure is done.
	Unerased Kind = "unerased"
	// Surplus: a row comes from no message that is an event.
	Surplus Kind = "surplus"
	// Skipped: a message lies between two batches and so was never ingested.
	Skipped Kind = "skipped"
	// Undelivered: a refused message is not among the dead letters.
	Undelivered Kind = "undelivered"
	// Chain: the ledger's entries do not follow each other, or one cannot be read.
	Chain Kind = "chain"
	// Tombstones: what is said to have been removed is not what was decided to be.
	Tombstones Kind = "tombstones"
	// Changed: the stream's messages are not those the ledger was written for.
	Changed Kind = "changed"
)

// maxFindings bounds the findings of one kind that are kept one by one; all are counted.
const maxFindings = 100

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind      Kind   `json:"kind"`
	Partition int    `json:"partition"`
	Batch     uint64 `json:"batch,omitempty"`
	// Seq is the sequence in the event stream, 0 when the finding is not about one message.
	Seq    uint64 `json:"stream_seq,omitempty"`
	Tenant string `json:"tenant_id,omitempty"`
	ID     string `json:"id,omitempty"`
	Detail string `json:"detail"`
}

// Report is the outcome of a verification. It is OK without findings; everything else is information.
type Report struct {
	// Deep says whether every message was read again and every field compared.
	Deep   bool   `json:"deep"`
	Tenant string `json:"tenant_id,omitempty"`
	// Batches, Messages and DeadLetters are what was checked: ledger entries, and what they (for one tenant: its messages) hold.
	Batches     uint64 `json:"batches"`
	Messages    uint64 `json:"messages"`
	Rows        uint64 `json:"rows"`
	DeadLetters uint64 `json:"dead_letters"`
	// Folded counts messages that are not in the table because an older copy of the same event is, as far as they were looked for.
	Folded uint64 `json:"folded"`
	// Removed counts messages that are not in the table because they were removed by a decision of the control log, as far as they were looked for;
	// Tombstones counts what all decisions removed.
	Removed    uint64 `json:"removed"`
	Tombstones uint64 `json:"tombstones"`
	// Erased counts rows that differ from their messages because somebody was erased, as far as they were compared; Erasing those that are yet to be changed.
	Erased  uint64 `json:"erased"`
	Erasing uint64 `json:"erasing"`
	// Unproven counts rows that are fewer than the ledger says, of messages the stream does not hold any more, where enough older rows
	// of the same time are there to be their first copies.
	Unproven uint64 `json:"unproven"`
	// Pending counts rows of batches that were being inserted, Waiting messages that no batch holds yet.
	Pending uint64 `json:"pending"`
	Waiting uint64 `json:"waiting"`
	// Trimmed counts batches of which the stream no longer holds all messages.
	Trimmed uint64 `json:"trimmed"`
	// ReusedIDs are ids under which a tenant has events of different times: different events, but perhaps a producer's mistake. Deep only.
	ReusedIDs []clickhouse.ReusedID `json:"reused_ids,omitempty"`
	// Counts says how many findings of each kind there are, Findings which, up to a limit.
	Counts   map[Kind]uint64 `json:"counts"`
	Findings []Finding       `json:"findings"`
}

// OK says whether everything is as it should be.
func (r *Report) OK() bool { return len(r.Counts) == 0 }

func (r *Report) add(f Finding) { r.addMany(f, 1) }

// addMany counts n of what f tells.
func (r *Report) addMany(f Finding, n uint64) {
	if r.Counts == nil {
		r.Counts = make(map[Kind]uint64)
	}
	if r.Counts[f.Kind] < maxFindings {
		r.Findings = append(r.Findings, f)
	}
	r.Counts[f.Kind] += n
}

// MarshalJSON writes empty lists as lists.
func (r *Report) MarshalJSON() ([]byte, error) {
	type plain Report
	out := struct {
		OK bool `json:"ok"`
		*plain
	}{r.OK(), (*plain)(r)}
	if r.Findings == nil {
		out.Findings = []Finding{}
	}
	if r.Counts == nil {
		out.Counts = map[Kind]uint64{}
	}
	return json.Marshal(out)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: partition %d", f.Kind, f.Partition)
		for _, part := range []struct {
			name string
			set  bool
			v    any
		}{{"batch", f.Batch > 0, f.Batch}, {"sequence", f.Seq > 0, f.Seq}, {"tenant", f.Tenant != "", f.Tenant}, {"event", f.ID != "", f.ID}} {
			if part.set {
				fmt.Fprintf(&b, ", %s %v", part.name, part.v)
			}
		}
		fmt.Fprintf(&b, ": %s\n", f.Detail)
	}
	for _, id := range r.ReusedIDs {
		fmt.Fprintf(&b, "note: tenant %s has %d events of different times under id %s\n", id.Tenant, id.Times, id.ID)
	}
	fmt.Fprintf(&b, "checked %d batches, %d messages: %d rows, %d dead letters, %d folded into older copies\n", r.Batches, r.Messages, r.Rows, r.DeadLetters, r.Folded)
	for _, note := range []struct {
		n    uint64
		text string
	}{
		{r.Tombstones, "rows were removed by decisions of the control log"},
		{r.Erased, "rows have a pseudonym in place of somebody who was erased"},
		{r.Erasing, "rows have the name of somebody whose erasure is under way"},
		{r.Pending, "rows were still being inserted"},
		{r.Waiting, "messages wait to be ingested"},
		{r.Trimmed, "batches are checked by count alone: the stream does not hold their messages any more"},
		{r.Unproven, "rows of those are missing, or folded into the older copies that are there: it cannot be told any more"},
	} {
		if note.n > 0 {
			fmt.Fprintf(&b, "note: %d %s\n", note.n, note.text)
		}
	}
	b.WriteString(r.verdict())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) verdict() string {
	if r.OK() {
		return "OK\n"
	}
	kinds := make([]string, 0, len(r.Counts))
	for k, n := range r.Counts {
		kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(kinds)
	return "NOT OK: " + strings.Join(kinds, ", ") + "\n"
}
