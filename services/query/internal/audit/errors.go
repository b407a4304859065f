package audit

import "errors"

// Errors of the store as the API tells them apart. Everything else is internal.
var (
	// ErrUnavailable means the store could not be reached or refused to work: try again later (503).
	ErrUnavailable = errors.New("the event store is unavailable")
	// ErrTimeout means that the query went over its time budget (504).
	ErrTimeout = errors.New("the query went over its time budget")
	// ErrNotFound means that there is no such event, or none that the reader may see (404).
	ErrNotFound = errors.New("no such event")
)
