package policy

import (
	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/policy/predicate"
)

// operandKind is what one side of a comparison can be.
type operandKind uint8

const (
	opGap    operandKind = iota // no translation
	opError                     // evaluating it is an error
	opKnown                     // a value; nil while linting, when it is only known that it will be known
	opRow                       // the row itself
	opText                      // a column of text
	opTime                      // created_at
	opTenant                    // the row's tenant, an entity
	opSince                     // a duration between created_at and a known moment
	opSet                       // a set literal with something of the row in it
)

// operand is one side of a comparison.
type operand struct {
	kind  operandKind
	value cedar.Value
	col   predicate.Column
	// elems are the parts of opSet.
	elems []operand
	// moment is the known side of opSince, nil while linting; reversed means moment minus created_at, otherwise created_at minus moment.
	moment   cedar.Value
	reversed bool
}

// isRow says whether the operand depends on the row in a way that comparisons can use.
func (o operand) isRow() bool { return o.kind >= opRow }

// columns are what must be present for the operand to have a value.
func (o operand) columns() []predicate.Column {
	if o.kind == opText {
		return []predicate.Column{o.col}
	}
	var cols []predicate.Column
	for _, e := range o.elems {
		cols = append(cols, e.columns()...)
	}
	return cols
}

// textColumns maps the attributes of Event that are columns of text.
var textColumns = map[cedar.String]predicate.Column{
	"actor_id":      predicate.ActorID,
	"actor_type":    predicate.ActorType,
	"action":        predicate.Action,
	"resource_type": predicate.ResourceType,
	"resource_id":   predicate.ResourceID,
	"reasoning":     predicate.Reasoning,
}

// operand reads one side of a comparison.
func (tr *translator) operand(n xast.IsNode) operand {
	if tr.fails(n) {
		return operand{kind: opError}
	}
	if v, ok := n.(xast.NodeValue); ok {
		return operand{kind: opKnown, value: v.Value}
	}
	if !usesRow(n) {
		return tr.unevaluated(n)
	}
	switch n := n.(type) {
	case xast.NodeTypeVariable:
		return operand{kind: opRow}
	case xast.NodeTypeAccess:
		return tr.access(n)
	case xast.NodeTypeSet:
		return tr.setLiteral(n)
	case xast.NodeTypeExtensionCall:
		return tr.durationSince(n)
	}
	return operand{}
}

// unevaluated is an expression without the row in it that partial evaluation left alone. It never does; while linting, before any
// evaluation, such expressions stand for the values that they will have.
func (tr *translator) unevaluated(n xast.IsNode) operand {
	if !tr.lint {
		return operand{}
	}
	if s, ok := n.(xast.NodeTypeSet); ok && len(s.Elements) > maxInValues {
		tr.gap("a set of more than %d values", "split the policy, or give the keys a role for it", maxInValues)
		return operand{}
	}
	return operand{kind: opKnown}
}

func (tr *translator) access(n xast.NodeTypeAccess) operand {
	if v, ok := n.Arg.(xast.NodeTypeVariable); !ok || v.Name != "resource" {
		return operand{}
	}
	if col, ok := textColumns[n.Value]; ok {
		return operand{kind: opText, col: col}
	}
	switch n.Value {
	case "created_at":
		return operand{kind: opTime}
	case "tenant":
		return operand{kind: opTenant}
	}
	return operand{kind: opError} // no such attribute
}

func (tr *translator) setLiteral(n xast.NodeTypeSet) operand {
	o := operand{kind: opSet}
	for _, e := range n.Elements {
		el := tr.operand(e)
		switch el.kind {
		case opError:
			return el
		case opKnown, opText:
			o.elems = append(o.elems, el)
		default:
			return operand{}
		}
	}
	return o
}

func (tr *translator) durationSince(n xast.NodeTypeExtensionCall) operand {
	if n.Name != "durationSince" || len(n.Args) != 2 {
		return operand{}
	}
	a, b := tr.operand(n.Args[0]), tr.operand(n.Args[1])
	switch {
	case a.kind == opError || b.kind == opError:
		return operand{kind: opError}
	case a.kind == opTime && b.kind == opKnown:
		return operand{kind: opSince, moment: b.value}
	case a.kind == opKnown && b.kind == opTime:
		return operand{kind: opSince, moment: a.value, reversed: true}
	}
	return operand{}
}

// usesRow says whether the row occurs anywhere in n.
func usesRow(n xast.IsNode) bool {
	found := false
	xast.Inspect(xast.NewNode(n), func(n xast.IsNode) bool {
		if v, ok := n.(xast.NodeTypeVariable); ok && v.Name == "resource" {
			found = true
		}
		return !found
	})
	return found
}

// canonical says whether id is a UUID as the entities spell it: any other text equals no row.
func canonical(id cedar.String) bool {
	u, err := uuid.Parse(string(id))
	return err == nil && u.String() == string(id)
}
