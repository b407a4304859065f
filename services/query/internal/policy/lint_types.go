package policy

import (
	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

// comparisons refuses `datetime < Long` and its like: cedar-go's validator looks at each side by itself, and the policy would fail at
// every evaluation.
func (l *linter) comparisons() {
	l.inspect(func(n xast.IsNode) {
		var b xast.BinaryNode
		switch n := n.(type) {
		case xast.NodeTypeLessThan:
			b = n.BinaryNode
		case xast.NodeTypeLessThanOrEqual:
			b = n.BinaryNode
		case xast.NodeTypeGreaterThan:
			b = n.BinaryNode
		case xast.NodeTypeGreaterThanOrEqual:
			b = n.BinaryNode
		default:
			return
		}
		left, right := l.orderedType(b.Left), l.orderedType(b.Right)
		if left != "" && right != "" && left != right {
			l.problem("compares "+left+" with "+right, "both sides must have the same type: datetime(\"…\"), duration(\"…\") or a number")
		}
	})
}

// Names of the types that have an order.
const (
	ofLong     = "Long"
	ofDatetime = "datetime"
	ofDuration = "duration"
)

// functionTypes are the results of extension functions and methods.
var functionTypes = map[cedar.String]string{
	"datetime": ofDatetime, "offset": ofDatetime, "toDate": ofDatetime,
	"duration": ofDuration, "durationSince": ofDuration, "toTime": ofDuration,
	"toDays": ofLong, "toHours": ofLong, "toMinutes": ofLong, "toSeconds": ofLong, "toMilliseconds": ofLong,
}

// orderedType is the type of an expression if it has an order and can be told without doubt, else empty.
func (l *linter) orderedType(n xast.IsNode) string {
	switch n := n.(type) {
	case xast.NodeValue:
		switch n.Value.(type) {
		case cedar.Long:
			return ofLong
		case cedar.Datetime:
			return ofDatetime
		case cedar.Duration:
			return ofDuration
		}
	case xast.NodeTypeExtensionCall:
		return functionTypes[cedar.String(n.Name)]
	case xast.NodeTypeAdd, xast.NodeTypeSub, xast.NodeTypeMult, xast.NodeTypeNegate:
		return ofLong
	case xast.NodeTypeIfThenElse:
		return l.orderedType(n.Then)
	case xast.NodeTypeAccess:
		return orderedName(l.attribute(n))
	}
	return ""
}

func orderedName(t resolved.IsType) string {
	switch t := t.(type) {
	case resolved.LongType:
		return ofLong
	case resolved.ExtensionType:
		if t == ofDatetime || t == ofDuration {
			return string(t)
		}
	}
	return ""
}

// attribute is the declared type of principal.x, resource.x, context.x and context.x.y; nil for anything else.
func (l *linter) attribute(n xast.IsNode) resolved.IsType {
	a, ok := n.(xast.NodeTypeAccess)
	if !ok {
		return nil
	}
	for _, rec := range l.records(a.Arg) {
		if attr, ok := rec[a.Value]; ok {
			return attr.Type
		}
	}
	return nil
}

// records are the shapes that n may have. Attributes of one name have one type in all of them.
func (l *linter) records(n xast.IsNode) []resolved.RecordType {
	v, ok := n.(xast.NodeTypeVariable)
	if !ok {
		if rec, ok := l.attribute(n).(resolved.RecordType); ok {
			return []resolved.RecordType{rec}
		}
		return nil
	}
	shape := func(t cedar.EntityType) resolved.RecordType { return l.model.schema.Entities[t].Shape }
	switch v.Name {
	case "principal":
		return []resolved.RecordType{shape(typeKey)}
	case "resource":
		return []resolved.RecordType{shape(typeEvent), shape(typeLog)}
	}
	var out []resolved.RecordType
	for _, a := range actions {
		out = append(out, l.model.schema.Actions[a.uid()].AppliesTo.Context)
	}
	return out
}
