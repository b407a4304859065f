package policy

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	xeval "github.com/cedar-policy/cedar-go/x/exp/eval"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy/predicate"
)

// Bounds of what is remembered for one request.
const (
	// maxMemoBytes bounds the remembered rows; beyond it, remembering begins anew.
	maxMemoBytes = 1 << 20
	// maxMemoKey keeps a long reasoning from filling the memory by itself.
	maxMemoKey = 2 << 10
	// memoOverhead is about what an entry takes beside its key.
	memoOverhead = 64
)

// memo remembers decisions on rows. Within one request everything but the row is fixed, so that rows which agree in all that the rules look at
// are decided alike: each kind of row is decided by Cedar once, not each row.
type memo struct {
	columns []predicate.Column // what the rules look at, sorted

	mu      sync.Mutex
	key     []byte // scratch
	decided map[string]bool
	bytes   int
}

// newMemo is nil when the rules look at something that hardly two rows agree in: the row as a whole, or its time.
func newMemo(rules ruleSet) *memo {
	m := &memo{decided: map[string]bool{}}
	for _, r := range rules.each() {
		columns, ok := columnsOf((*xast.Policy)(r.policy.AST()))
		if !ok {
			return nil
		}
		m.columns = append(m.columns, columns...)
	}
	slices.Sort(m.columns)
	m.columns = slices.Compact(m.columns)
	return m
}

// columnsOf are the columns of text that decide a policy. ok is false when something else of the row does, or may.
func columnsOf(p *xast.Policy) (columns []predicate.Column, ok bool) {
	uses, understood := 0, 0
	attribute := func(of xast.IsNode, name cedar.String) {
		if !isResource(of) {
			return
		}
		col, text := textColumns[name]
		if text {
			columns = append(columns, col)
		}
		if text || name == "tenant" { // which is the same for all rows of a request
			understood++
		}
	}
	xast.Inspect(xast.NewNode(xeval.PolicyToNode(p).AsIsNode()), func(n xast.IsNode) bool {
		switch n := n.(type) {
		case xast.NodeTypeVariable:
			if isResource(n) {
				uses++
			}
		case xast.NodeTypeAccess:
			attribute(n.Arg, n.Value)
		case xast.NodeTypeHas:
			attribute(n.Arg, n.Value)
		}
		return true
	})
	return columns, uses == understood
}

func isResource(n xast.IsNode) bool {
	v, ok := n.(xast.NodeTypeVariable)
	return ok && v.Name == "resource"
}

// decide is decide(e), from memory where a row like e has been decided before.
func (m *memo) decide(e *audit.Event, decide func(*audit.Event) bool) bool {
	if m == nil {
		return decide(e)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.key = m.appendKey(m.key[:0], e)
	if permitted, known := m.decided[string(m.key)]; known {
		return permitted
	}
	permitted := decide(e) // a panic leaves nothing behind
	m.remember(permitted)
	return permitted
}

func (m *memo) remember(permitted bool) {
	if len(m.key) > maxMemoKey {
		return
	}
	if m.bytes += len(m.key) + memoOverhead; m.bytes > maxMemoBytes {
		clear(m.decided)
		m.bytes = len(m.key) + memoOverhead
	}
	m.decided[string(m.key)] = permitted
}

// appendKey writes what the rules look at, so that no two rows that differ in it give the same bytes.
func (m *memo) appendKey(b []byte, e *audit.Event) []byte {
	for _, col := range m.columns {
		v, present := predicate.Text(col, e)
		if !present {
			b = append(b, 0)
			continue
		}
		b = append(binary.AppendUvarint(append(b, 1), uint64(len(v))), v...)
	}
	return b
}
