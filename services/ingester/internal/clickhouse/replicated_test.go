package clickhouse_test

import (
	"regexp"
	"strings"
	"testing"

	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// Ensure every table of the migrations is a replicated one in a replicated database, and that ClickHouse can read the statements. To run them takes
// several servers and Keeper.
func TestReplicatedStatements(t *testing.T) {
	f := setup(t, shared, "")
	tables := 0
	for _, statement := range clickhouse.ReplicatedStatements() {
		if _, err := f.format(t, statement); err != nil {
			t.Errorf("%v:\n%s", err, statement)
		}
		for _, engine := range regexp.MustCompile(`(?i)\bengine\s*=\s*(\w+)`).FindAllStringSubmatch(statement, -1) {
			tables++
			if !strings.HasPrefix(engine[1], "Replicated") {
				t.Errorf("engine %s in a replicated database:\n%s", engine[1], statement)
			}
		}
	}
	if tables < 3 {
		t.Errorf("only %d tables found", tables)
	}
	if _, err := f.format(t, "CREATE TABLE x (a UInt8"); err == nil {
		t.Error("ClickHouse reads what is no statement")
	}
}

// format has ClickHouse parse a statement.
func (f *fixture) format(t *testing.T, statement string) (out string, err error) {
	t.Helper()
	err = f.db.QueryRow(t.Context(), "SELECT formatQuery(?)", statement).Scan(&out)
	return out, err
}
