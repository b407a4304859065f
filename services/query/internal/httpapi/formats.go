package httpapi

import (
	"strconv"
	"strings"

	"example.com/auditlog/services/query/internal/audit"
)

// exportFormat is a way to write an export.
type exportFormat struct {
	contentType, extension, head string
	append                       func(b []byte, e *audit.Event) []byte
	end                          func(b []byte, count int) []byte
}

var exportFormats = map[string]exportFormat{
	"ndjson": {
		contentType: "application/x-ndjson", extension: ".ndjson",
		append: func(b []byte, e *audit.Event) []byte { return append(appendEvent(b, e), '\n') },
		// The last line tells a whole export from a broken one even where trailers get lost on the way.
		end: func(b []byte, count int) []byte {
			return append(strconv.AppendInt(append(b, `{"complete":true,"count":`...), int64(count), 10), "}\n"...)
		},
	},
	"csv": {
		contentType: "text/csv; charset=utf-8; header=present", extension: ".csv",
		head:   "id,created_at,actor_id,actor_type,action,resource_type,resource_id,reasoning,metadata\r\n",
		append: appendCSV,
		end:    func(b []byte, _ int) []byte { return b },
	},
}

// appendCSV writes an event as a line of RFC 4180. A reasoning that is absent is an empty cell, one that is empty an empty cell in quotes.
func appendCSV(b []byte, e *audit.Event) []byte {
	b = append(appendUUID(b, e.ID), ',')
	b = appendTime(b, e.CreatedAt)
	for _, v := range []string{e.ActorID, e.ActorType, e.Action, e.ResourceType, e.ResourceID} {
		b = appendCell(append(b, ','), v)
	}
	b = append(b, ',')
	if e.Reasoning != nil {
		b = appendCell(b, *e.Reasoning)
	}
	metadata := string(e.Metadata)
	if metadata == "" {
		metadata = "{}"
	}
	return append(appendCell(append(b, ','), metadata), "\r\n"...)
}

// formulaStarts are the characters at which a spreadsheet takes a cell for a formula, or looks behind for one.
const formulaStarts = "=+-@\t\r\n"

// appendCell writes a cell. What a spreadsheet might run gets an apostrophe in front.
func appendCell(b []byte, v string) []byte {
	formula := v != "" && strings.IndexByte(formulaStarts, v[0]) >= 0
	if v != "" && !strings.ContainsAny(v, "\",\r\n") {
		if formula {
			b = append(b, '\'')
		}
		return append(b, v...)
	}
	b = append(b, '"')
	if formula {
		b = append(b, '\'')
	}
	for i := range len(v) {
		if v[i] == '"' {
			b = append(b, '"')
		}
		b = append(b, v[i])
	}
	return append(b, '"')
}
