package policy

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

//go:embed builtin
var builtinFiles embed.FS

// Names of the schema.
const (
	typeKey    cedar.EntityType = "AuditLog::ApiKey"
	typeRole   cedar.EntityType = "AuditLog::Role"
	typeTenant cedar.EntityType = "AuditLog::Tenant"
	typeLog    cedar.EntityType = "AuditLog::Log"
	typeEvent  cedar.EntityType = "AuditLog::Event"
	typeAction cedar.EntityType = "AuditLog::Action"

	readEvent Action = "ReadEvent"
)

// actions are those a request can be decided for, in the order they are written about.
var actions = []Action{QueryLog, ExportLog, readEvent}

func (a Action) uid() cedar.EntityUID { return cedar.NewEntityUID(typeAction, cedar.String(a)) }

// known says whether the schema declares a.
func (a Action) known() bool { return a == QueryLog || a == ExportLog || a == readEvent }

// model is the schema, ready for use: it is the same for the life of the process.
type model struct {
	schema    *resolved.Schema
	validator *validate.Validator
	// actions are the entities of the actions. Cedar does not take action groups from the schema: without these entities in every
	// request, `action in Action::"read"` would silently match nothing.
	actions map[cedar.EntityUID]cedar.Entity
}

func loadModel() (*model, error) {
	const name = "builtin/auditlog.cedarschema"
	text, err := fs.ReadFile(builtinFiles, name)
	if err != nil {
		return nil, fmt.Errorf("read the built-in schema: %w", err)
	}
	var s schema.Schema
	s.SetFilename(name)
	if err := s.UnmarshalCedar(text); err != nil {
		return nil, fmt.Errorf("parse the built-in schema: %w", err)
	}
	rs, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("resolve the built-in schema: %w", err)
	}
	m := &model{schema: rs, validator: validate.New(rs), actions: make(map[cedar.EntityUID]cedar.Entity, len(rs.Actions))}
	for uid, a := range rs.Actions {
		m.actions[uid] = a.Entity
	}
	for _, a := range actions {
		if _, ok := m.actions[a.uid()]; !ok {
			return nil, fmt.Errorf("the built-in schema lacks the action %s", strconv.Quote(string(a)))
		}
	}
	return m, nil
}
