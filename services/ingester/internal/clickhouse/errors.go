package clickhouse

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go"
	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

var (
	// ErrInDoubt means that an insert may have been applied, may not, or may still be running: Settle and ReadBack tell.
	ErrInDoubt = errors.New("outcome of the insert is in doubt")
	// ErrTransient means that nothing was applied and that the same call may succeed later.
	ErrTransient = errors.New("clickhouse cannot do it now")
	// ErrSchemaNewer means that a newer version of this program has changed the database's schema.
	ErrSchemaNewer = errors.New("database schema is newer than this program")
)

// class is what an exception of the server means for the caller.
type class struct {
	code int32
	// name is ClickHouse's own.
	name string
	// transient: the same request may succeed later. Otherwise somebody has to change something first.
	transient bool
	// refused: the server raises it before it commits anything of an insert into one table, whether or not the rows have been sent. All others, once
	// the rows were sent, leave the outcome in doubt: of a block over several years one part may be committed and the next one not, and a view
	// may throw after its source has been written.
	refused bool
}

// classes lists the exceptions an operator will meet. What is not listed is transient: retrying with a log line loses nothing, stopping for a
// passing fault would.
var classes = []class{
	{code: 3, name: "UNEXPECTED_END_OF_FILE", transient: true},
	{code: 74, name: "CANNOT_READ_FROM_FILE_DESCRIPTOR", transient: true},
	{code: 75, name: "CANNOT_WRITE_TO_FILE_DESCRIPTOR", transient: true},
	{code: 76, name: "CANNOT_OPEN_FILE", transient: true},
	{code: 77, name: "CANNOT_CLOSE_FILE", transient: true},
	{code: 159, name: "TIMEOUT_EXCEEDED", transient: true},
	{code: 160, name: "TOO_SLOW", transient: true},
	{code: 201, name: "QUOTA_EXCEEDED", transient: true},
	{code: 202, name: "TOO_MANY_SIMULTANEOUS_QUERIES", transient: true, refused: true},
	{code: 203, name: "NO_FREE_CONNECTION", transient: true},
	{code: 209, name: "SOCKET_TIMEOUT", transient: true},
	{code: 210, name: "NETWORK_ERROR", transient: true},
	{code: 216, name: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", transient: true, refused: true},
	{code: 225, name: "NO_ZOOKEEPER", transient: true},
	{code: 236, name: "ABORTED", transient: true},
	{code: 241, name: "MEMORY_LIMIT_EXCEEDED", transient: true},
	{code: 242, name: "TABLE_IS_READ_ONLY", transient: true, refused: true},
	{code: 243, name: "NOT_ENOUGH_SPACE", transient: true},
	{code: 252, name: "TOO_MANY_PARTS", transient: true, refused: true},
	{code: 254, name: "NO_ACTIVE_REPLICAS", transient: true},
	{code: 279, name: "ALL_CONNECTION_TRIES_FAILED", transient: true},
	{code: 285, name: "TOO_FEW_LIVE_REPLICAS", transient: true, refused: true},
	{code: 286, name: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", transient: true, refused: true},
	{code: 289, name: "REPLICA_IS_NOT_IN_QUORUM", transient: true},
	{code: 290, name: "LIMIT_EXCEEDED", transient: true},
	{code: 319, name: "UNKNOWN_STATUS_OF_INSERT", transient: true},
	{code: 394, name: "QUERY_WAS_CANCELLED", transient: true},
	{code: 425, name: "SYSTEM_ERROR", transient: true},
	{code: 439, name: "CANNOT_SCHEDULE_TASK", transient: true},
	{code: 473, name: "DEADLOCK_AVOIDED", transient: true},
	{code: 745, name: "SERVER_OVERLOADED", transient: true, refused: true},
	{code: 774, name: "TABLE_IS_PERMANENTLY_READ_ONLY", transient: true, refused: true},
	{code: 999, name: "KEEPER_EXCEPTION", transient: true},
	{code: 1000, name: "POCO_EXCEPTION", transient: true},
	{code: 1001, name: "STD_EXCEPTION", transient: true},

	{code: 10, name: "NOT_FOUND_COLUMN_IN_BLOCK", refused: true},
	{code: 16, name: "NO_SUCH_COLUMN_IN_TABLE", refused: true},
	{code: 36, name: "BAD_ARGUMENTS"},
	{code: 43, name: "ILLEGAL_TYPE_OF_ARGUMENT"},
	{code: 46, name: "UNKNOWN_FUNCTION"},
	{code: 47, name: "UNKNOWN_IDENTIFIER"},
	{code: 48, name: "NOT_IMPLEMENTED"},
	{code: 50, name: "UNKNOWN_TYPE", refused: true},
	{code: 53, name: "TYPE_MISMATCH", refused: true},
	{code: 57, name: "TABLE_ALREADY_EXISTS"},
	{code: 60, name: "UNKNOWN_TABLE", refused: true},
	{code: 62, name: "SYNTAX_ERROR", refused: true},
	{code: 70, name: "CANNOT_CONVERT_TYPE", refused: true},
	{code: 81, name: "UNKNOWN_DATABASE", refused: true},
	{code: 115, name: "UNKNOWN_SETTING", refused: true},
	{code: 164, name: "READONLY", refused: true},
	{code: 192, name: "UNKNOWN_USER", refused: true},
	{code: 193, name: "WRONG_PASSWORD", refused: true},
	{code: 194, name: "REQUIRED_PASSWORD", refused: true},
	{code: 195, name: "IP_ADDRESS_NOT_ALLOWED", refused: true},
	{code: 452, name: "SETTING_CONSTRAINT_VIOLATION", refused: true},
	{code: 497, name: "ACCESS_DENIED", refused: true},
	{code: 516, name: "AUTHENTICATION_FAILED", refused: true},
}

var classOf = func() map[int32]class {
	m := make(map[int32]class, len(classes))
	for _, c := range classes {
		m[c.code] = c
	}
	return m
}()

// viewMark is what the server adds to an exception thrown by a materialized view, whose source may have been written by then.
const viewMark = "while pushing to view"

// exception finds the server's own words in err.
func exception(err error) (code int32, message string, ok bool) {
	if e, found := ch.AsException(err); found {
		return int32(e.Code), e.Message, true
	}
	var e *chgo.Exception
	if errors.As(err, &e) {
		return e.Code, e.Message, true
	}
	return 0, "", false
}

// classify says what a failed request that changes nothing, or that did not come so far, means: ErrTransient, or neither when it is final.
func classify(err error) error {
	if err == nil || errors.Is(err, ErrTransient) || errors.Is(err, ErrInDoubt) {
		return err
	}
	code, _, ok := exception(err)
	if c, listed := classOf[code]; ok && listed && !c.transient {
		return err
	}
	return fmt.Errorf("%w: %w", ErrTransient, err)
}

// classifyInsert is classify for an insert, of which the rows may have been sent.
func classifyInsert(err error, sent bool) error {
	if err == nil || !sent {
		return classify(err)
	}
	code, message, ok := exception(err)
	if ok && classOf[code].refused && !strings.Contains(message, viewMark) {
		return classify(err)
	}
	return fmt.Errorf("%w: %w", ErrInDoubt, err)
}
