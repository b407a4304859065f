package clickhouse

import "context"

// Doors for the tests of this package.
var (
	Statements     = statements
	Classify       = classify
	ClassifyInsert = classifyInsert
)

// ListedClass is one line of the table of exceptions.
type ListedClass struct {
	Code               int32
	Name               string
	Transient, Refused bool
}

// ListedClasses is the table of exceptions.
func ListedClasses() []ListedClass {
	out := make([]ListedClass, len(classes))
	for i, c := range classes {
		out[i] = ListedClass{c.code, c.name, c.transient, c.refused}
	}
	return out
}

// ColumnTypes lists what an insert sends, in order: name and type.
func ColumnTypes() (out [][2]string) {
	for _, c := range new(Columns).input() {
		out = append(out, [2]string{c.Name, string(c.Data.Type())})
	}
	return out
}

// MigrateTo runs the program's migrations and then the given statements, one version each.
func (s *Store) MigrateTo(ctx context.Context, more ...string) error {
	todo := migrations()
	for _, sql := range more {
		todo = append(todo, migration{version: todo[len(todo)-1].version + 1, name: "more", sql: statements(sql)})
	}
	return s.migrate(ctx, todo)
}

// MigrateUpTo makes the database as an older program left it.
func (s *Store) MigrateUpTo(ctx context.Context, version int) error {
	return s.migrate(ctx, migrations()[:version])
}

// RelayoutStatements are those of the migration to partitions of a year.
func RelayoutStatements() []string { return migrations()[2].sql }

// Lock is lock.
func (s *Store) Lock(ctx context.Context, name string) (context.Context, func(), error) {
	return s.lock(ctx, name)
}

// ReplicatedStatements are all statements of the migrations as they are for a replicated database.
func ReplicatedStatements() (all []string) {
	all = append(all, engineFor(true, ledgerTable))
	for _, m := range migrations() {
		all = append(all, enginesFor(true, m.sql)...)
	}
	return all
}

// Versions is how many versions the schema has had.
func Versions() int { return len(migrations()) }
