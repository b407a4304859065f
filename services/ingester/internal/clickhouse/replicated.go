package clickhouse

import (
	"context"
	"fmt"
	"regexp"
)

// replicated says whether the database is one whose tables are kept on several servers: made beforehand with ENGINE = Replicated, which also runs
// every statement of a migration on all of them.
func (s *Store) replicated(ctx context.Context) (bool, error) {
	var engine string
	if err := s.queries.QueryRow(ctx, "SELECT engine FROM system.databases WHERE name = currentDatabase()").Scan(&engine); err != nil {
		return false, fmt.Errorf("look for the engine of database %s: %w", s.opts.Auth.Database, classify(err))
	}
	return engine == "Replicated", nil
}

// tableEngine finds the engine of a table in the statement that makes it.
var tableEngine = regexp.MustCompile(`\bENGINE = ([A-Za-z]*MergeTree)\b`)

// engineFor is the statement for a replicated database or another one: the same table, kept by ClickHouse on one server or several.
func engineFor(replicated bool, statement string) string {
	if !replicated {
		return statement
	}
	return tableEngine.ReplaceAllString(statement, "ENGINE = Replicated$1")
}

func enginesFor(replicated bool, statements []string) []string {
	out := make([]string, len(statements))
	for i, statement := range statements {
		out[i] = engineFor(replicated, statement)
	}
	return out
}
