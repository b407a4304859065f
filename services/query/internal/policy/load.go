package policy

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/uuid"
)

// Check reads a directory of policies as Open would and returns everything that is wrong with it; nil when it could go into force. An
// empty dir checks the built-in policies.
func Check(dir string) []Problem {
	m, err := loadModel()
	if err != nil {
		return []Problem{{File: ".", What: err.Error()}}
	}
	_, problems := load(m, dirFS(dir))
	return problems
}

// Builtin is the built-in schema and policies as files, in the layout of a policy directory: a place to start from.
func Builtin() fs.FS {
	sub, err := fs.Sub(builtinFiles, "builtin")
	if err != nil {
		panic(err) // the path is a constant and valid
	}
	return sub
}

// load makes a snapshot of the built-in guardrails and the files of fsys, or of the built-in files alone when fsys is nil.
func load(m *model, fsys fs.FS) (*snapshot, []Problem) {
	builtin, problems := readFiles(Builtin())
	if len(problems) > 0 {
		return nil, problems
	}
	if fsys == nil {
		return assemble(m, builtin)
	}
	own, problems := readFiles(fsys)
	if len(problems) > 0 {
		return nil, problems
	}
	files := slices.Clone(own)
	for _, f := range builtin {
		if f.layer == layerGuardrails {
			f.path = "built-in " + f.path
			files = append(files, f)
		}
	}
	s, problems := assemble(m, files)
	if s != nil {
		s.source = digest(own)
	}
	return s, problems
}

// assemble parses and checks the files and puts the policies into layers.
func assemble(m *model, files []file) (*snapshot, []Problem) {
	a := &assembly{model: m, rules: map[string][]*rule{}, seen: map[string]string{}}
	tenants := map[uuid.UUID]string{}
	for i := range files {
		a.add(&files[i])
		if files[i].layer == layerTenants {
			tenants[files[i].tenant] = files[i].prefix()
		}
	}
	s := &snapshot{model: m, digest: digest(files), tenants: make(map[uuid.UUID]layer, len(tenants))}
	s.guardrails = a.layer(layerGuardrails+"/", "no guardrail at all: nothing would keep tenants apart")
	s.defaults = a.layer(layerDefault+"/", "no policy for the default layer: put *.cedar files at the top or into default/; the built-in ones are a start")
	for id, prefix := range tenants {
		s.tenants[id] = a.layer(prefix, "the tenant's folder holds no policy: remove it, so that the default layer holds")
	}
	if len(a.problems) > 0 {
		return nil, a.problems
	}
	return s, nil
}

// assembly is a snapshot in the making.
type assembly struct {
	model    *model
	rules    map[string][]*rule // by prefix of the layer
	seen     map[string]string  // policy id: where it is
	problems []Problem
}

// layer closes a layer, which must not be empty: an empty one is a mistake, and as guardrails it would be a hole.
func (a *assembly) layer(prefix, empty string) layer {
	rules := a.rules[prefix]
	switch {
	case len(rules) == 0 && len(a.problems) == 0:
		a.problems = append(a.problems, Problem{File: ".", What: empty})
	case len(rules) > MaxLayerPolicies:
		a.problems = append(a.problems, Problem{File: ".", What: fmt.Sprintf("%s holds %d policies, more than %d", prefix, len(rules), MaxLayerPolicies),
			Fix: "use roles instead of policies for single keys"})
	}
	return newLayer(a.model, rules)
}

// add parses one file and checks each of its policies.
func (a *assembly) add(f *file) {
	policies, err := cedar.NewPolicyListFromBytes(f.path, f.text)
	if err != nil {
		a.problems = append(a.problems, parseProblem(f.path, err))
		return
	}
	for _, p := range policies {
		l := newLinter(a.model, f, p)
		l.run()
		id := f.prefix() + l.rule.id
		where := fmt.Sprintf("%s:%d", f.path, p.Position().Line)
		if first, ok := a.seen[id]; ok && l.rule.id != "" {
			l.problem("another policy of the layer has the same @id, at "+first, "give each its own")
		}
		a.seen[id] = where
		a.problems = append(a.problems, l.problems...)
		l.rule.id = id
		a.rules[f.prefix()] = append(a.rules[f.prefix()], l.rule)
	}
}

// parseError is how cedar-go reports where parsing failed: without the file's name.
var parseError = regexp.MustCompile(`^parser error: (?:parse error at )?<input>:(\d+):(\d+):? ?`)

// parseProblem finds the line in a parser's error.
func parseProblem(name string, err error) Problem {
	p := Problem{File: name, What: "does not parse: " + err.Error()}
	if m := parseError.FindStringSubmatch(err.Error()); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.What = fmt.Sprintf("does not parse: at column %s: %s", m[2], err.Error()[len(m[0]):])
	}
	return p
}
