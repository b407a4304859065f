package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

const (
	// archiveFolder is the server's folder for backups, below the one whose files it reads and writes: backups.allowed_path of config.d/audit.xml.
	archiveFolder = "backups/"
	// archiveUnit divides the length of every tar archive, which is made of blocks of 512 bytes, and is the longest FixedString that raises no objection.
	archiveUnit = 256
	// archiveBlock is how many units go over the wire together: 2 MiB.
	archiveBlock = 8192
	// archivePoll is how often the server is asked how far it is, archiveQuestion how long the answer may take.
	archivePoll     = 100 * time.Millisecond
	archiveQuestion = time.Minute
)

// Archive is what a backup of the database is.
type Archive struct {
	// Server is ClickHouse's version, Schema the version of the database's tables.
	Server string
	Schema uint32
}

// Backup has the server write a backup of the DSN's database, of one moment for each table, and sends it to w: a tar archive. The first host of the DSN does
// it, and needs as much room as the tables take for as long as it lasts. name must be new: lower-case letters, digits and dashes.
func (s *Store) Backup(ctx context.Context, name string, w io.Writer) (a Archive, err error) {
	s, done, err := s.firstHost()
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if a.Schema, err = s.version(ctx, ^uint32(0)); err != nil {
		return a, err
	}
	if err := s.queries.QueryRow(ctx, "SELECT version()").Scan(&a.Server); err != nil {
		return a, fmt.Errorf("ask for the version of clickhouse: %w", classify(err))
	}
	if err := s.catchUp(ctx); err != nil {
		return a, err
	}
	file := name + ".tar"
	defer func() { err = errors.Join(err, s.spend(ctx, file)) }()
	size, err := s.runArchive(ctx, "BACKUP_CREATED", name,
		fmt.Sprintf("BACKUP DATABASE %s TO File(%s) SETTINGS id = %s ASYNC", quote(s.opts.Auth.Database), literal(file), literal(name)))
	if err != nil {
		return a, fmt.Errorf("back up database %s: %w", s.opts.Auth.Database, err)
	}
	sent, err := s.fetch(ctx, file, w)
	if err == nil && sent != size {
		err = fmt.Errorf("%d bytes came of an archive of %d", sent, size)
	}
	if err != nil {
		return a, fmt.Errorf("fetch the backup of database %s: %w", s.opts.Auth.Database, err)
	}
	return a, nil
}

// Restore makes the tables of the DSN's database from what Backup wrote. It must have none: see Tables.
func (s *Store) Restore(ctx context.Context, name string, r io.Reader) (err error) {
	s, done, err := s.firstHost()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	file := name + ".tar"
	defer func() { err = errors.Join(err, s.spend(ctx, file)) }()
	if err := s.send(ctx, file, r); err != nil {
		return fmt.Errorf("send the backup of database %s: %w", s.opts.Auth.Database, err)
	}
	// The definition of the database itself is that of whoever made it here.
	_, err = s.runArchive(ctx, "RESTORED", name, fmt.Sprintf("RESTORE DATABASE %s FROM File(%s) SETTINGS id = %s, allow_different_database_def = 1 ASYNC",
		quote(s.opts.Auth.Database), literal(file), literal(name)))
	if err != nil {
		return fmt.Errorf("restore database %s: %w", s.opts.Auth.Database, err)
	}
	// Counts and how far counting has come were not copied at the same moment.
	return s.steps(ctx, "begin the hourly counts anew", "TRUNCATE TABLE event_hours_progress")
}

// Tables makes the DSN's database when it is absent and returns the names of its tables and views.
func (s *Store) Tables(ctx context.Context) (names []string, err error) {
	if err := createDatabase(ctx, s.opts); err != nil {
		return nil, err
	}
	err = s.queries.QueryRow(ctx, "SELECT groupArray(name) FROM (SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name)").Scan(&names)
	if err != nil {
		return nil, fmt.Errorf("look for tables of database %s: %w", s.opts.Auth.Database, classify(err))
	}
	return names, nil
}

// Schema is the version of the tables that this program makes.
func Schema() uint32 {
	all := migrations()
	return all[len(all)-1].version
}

// DeleteAfter deletes the rows of each partition that come after its sequence in through, and returns how many there were.
func (s *Store) DeleteAfter(ctx context.Context, through map[int]uint64) (rows uint64, err error) {
	conditions := make([]string, 0, len(through))
	for _, p := range slices.Sorted(maps.Keys(through)) {
		conditions = append(conditions, fmt.Sprintf("(partition = %d AND stream_seq > %d)", p, through[p]))
	}
	where := strings.Join(conditions, " OR ")
	if err := s.queries.QueryRow(ctx, "SELECT count() FROM "+quote(s.table)+" WHERE "+where).Scan(&rows); err != nil {
		return 0, fmt.Errorf("count the rows behind the ledger: %w", classify(err))
	}
	if rows == 0 {
		return 0, nil
	}
	return rows, s.steps(ctx, "delete the rows behind the ledger", "ALTER TABLE "+quote(s.table)+" DELETE WHERE "+where+" SETTINGS mutations_sync = 2")
}

// Count returns how many rows the table has.
func (s *Store) Count(ctx context.Context) (rows uint64, err error) {
	if err := s.queries.QueryRow(ctx, "SELECT count() FROM "+quote(s.table)).Scan(&rows); err != nil {
		return 0, fmt.Errorf("count rows: %w", classify(err))
	}
	return rows, nil
}

// firstHost is a Store of the first host alone: what one server wrote to its disk no other can read.
func (s *Store) firstHost() (*Store, func() error, error) {
	opts := *s.opts
	opts.Addr = opts.Addr[:1]
	queries, err := chgo.Open(&opts)
	if err != nil {
		return nil, nil, fmt.Errorf("open clickhouse %s: %w", opts.Addr[0], err)
	}
	one := *s
	one.opts, one.queries, one.inserts = &opts, queries, newPool(&opts)
	return &one, one.Close, nil
}

// catchUp waits until this replica has what the others had when it was asked.
func (s *Store) catchUp(ctx context.Context) error {
	replicated, err := s.replicated(ctx)
	if err != nil || !replicated {
		return err
	}
	return s.steps(ctx, "wait for what other replicas have", "SYSTEM SYNC REPLICA "+quote(s.table))
}

// archiveState is how far a BACKUP or RESTORE is.
type archiveState struct {
	status, failure string
	query           string // its id among the server's queries
	size            uint64
}

// runArchive starts a BACKUP or RESTORE and waits for its end, of which it makes one when ctx is done. It returns the size of the archive.
func (s *Store) runArchive(ctx context.Context, success, id, statement string) (size uint64, err error) {
	if err := s.queries.Exec(ctx, statement); err != nil {
		return 0, classify(err)
	}
	for {
		now, err := s.archiveState(ctx, id)
		switch {
		case err != nil:
			return 0, fmt.Errorf("ask how far it is: %w", classify(err))
		case now.status == success:
			return now.size, nil
		case !strings.HasPrefix(now.status, "CREATING_") && now.status != "RESTORING":
			return 0, fmt.Errorf("clickhouse says %s: %s", now.status, now.failure)
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(context.Cause(ctx), s.endArchive(ctx, now.query))
		case <-time.After(archivePoll):
		}
	}
}

// archiveState asks also when ctx is done, so that what goes on by itself can be ended.
func (s *Store) archiveState(ctx context.Context, id string) (now archiveState, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), archiveQuestion)
	defer cancel()
	err = s.queries.QueryRow(ctx, "SELECT toString(status), error, query_id, compressed_size FROM system.backups WHERE id = ?", id).
		Scan(&now.status, &now.failure, &now.query, &now.size)
	return now, err
}

func (s *Store) endArchive(ctx context.Context, query string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), archiveQuestion)
	defer cancel()
	return s.steps(ctx, "end it", "KILL QUERY WHERE query_id = "+literal(query)+" SYNC")
}

// onServer is the path of a file in the server's folder, as SQL. It is absolute, for the engine of the local stack takes others from another folder.
func (s *Store) onServer(ctx context.Context, file string) (string, error) {
	var root string
	if err := s.queries.QueryRow(ctx, "SELECT value FROM system.server_settings WHERE name = 'user_files_path'").Scan(&root); err != nil {
		return "", fmt.Errorf("ask for the folder of files of clickhouse: %w", classify(err))
	}
	return literal(strings.TrimSuffix(root, "/") + "/" + archiveFolder + file), nil
}

// asUnits is a file on the server as a table of its bytes.
func asUnits(path string) string {
	return fmt.Sprintf("file(%s, 'RowBinary', 'unit FixedString(%d)', 'none')", path, archiveUnit)
}

// transferSettings keep the bytes in order and let the transfer take as long as it takes.
var transferSettings = []ch.Setting{
	{Key: "max_threads", Value: "1", Important: true},
	{Key: "max_insert_threads", Value: "1", Important: true},
	{Key: "max_block_size", Value: fmt.Sprint(archiveBlock), Important: true},
	{Key: "max_execution_time", Value: "0", Important: true},
	{Key: "engine_file_truncate_on_insert", Value: "1", Important: true},
	{Key: "async_insert", Value: "0", Important: true},
}

// fetch sends a file of the server to w and returns its size.
func (s *Store) fetch(ctx context.Context, file string, w io.Writer) (size uint64, err error) {
	path, err := s.onServer(ctx, file)
	if err != nil {
		return 0, err
	}
	units := &proto.ColFixedStr{Size: archiveUnit}
	q := ch.Query{
		Body: "SELECT unit FROM " + asUnits(path), Settings: transferSettings, Result: proto.Results{{Name: "unit", Data: units}},
		OnResult: func(context.Context, proto.Block) error {
			n, err := w.Write(units.Buf)
			size += uint64(n) //nolint:gosec // of a write
			return err
		},
	}
	err = s.inserts.with(ctx, func(conn *conn) error { return conn.do(ctx, q) })
	return size, err
}

// send writes what r has to a file of the server.
func (s *Store) send(ctx context.Context, file string, r io.Reader) error {
	path, err := s.onServer(ctx, file)
	if err != nil {
		return err
	}
	units := &proto.ColFixedStr{Size: archiveUnit}
	buf := make([]byte, archiveBlock*archiveUnit)
	q := ch.Query{
		Body: "INSERT INTO FUNCTION " + asUnits(path) + " VALUES", Settings: transferSettings, Input: proto.Input{{Name: "unit", Data: units}},
		OnInput: func(context.Context) error {
			n, err := io.ReadFull(r, buf)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			if n%archiveUnit != 0 {
				return fmt.Errorf("the archive ends in the middle of a block of %d bytes", archiveUnit)
			}
			units.Buf = append(units.Buf[:0], buf[:n]...)
			return err
		},
	}
	return s.inserts.with(ctx, func(conn *conn) error { return conn.do(ctx, q) })
}

// spend gives back the room of a file on the server. The server has no statement that deletes one: an empty file stays.
func (s *Store) spend(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), archiveQuestion)
	defer cancel()
	path, err := s.onServer(ctx, file)
	if err != nil {
		return err
	}
	return s.steps(ctx, "empty "+file+" on the server",
		fmt.Sprintf("INSERT INTO FUNCTION %s SELECT toFixedString('', %d) WHERE 0 SETTINGS engine_file_truncate_on_insert = 1", asUnits(path), archiveUnit))
}
