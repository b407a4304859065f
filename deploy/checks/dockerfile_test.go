package checks_test

import (
	"bytes"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Ensure docker build understands the Dockerfiles and its own linter has nothing to say.
func TestDockerfiles(t *testing.T) {
	for _, path := range []string{"services/ingester/Dockerfile", "services/query/Dockerfile"} {
		warnings := lint(t, read(t, path))
		for _, w := range warnings {
			t.Errorf("%s: %s", path, w)
		}
	}
	if got := lint(t, []byte("from scratch AS A\nentrypoint ./x\n")); len(got) < 2 {
		t.Errorf("the linter finds only %q in a bad file", got)
	}
}

func lint(t *testing.T, text []byte) (warnings []string) {
	t.Helper()
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ast.Warnings {
		warnings = append(warnings, w.Short)
	}
	l := linter.New(&linter.Config{Warn: func(rule, _, _, message string, _ []parser.Range) { warnings = append(warnings, rule+": "+message) }})
	if _, _, err := instructions.Parse(ast.AST, l); err != nil {
		t.Fatal(err)
	}
	return warnings
}
