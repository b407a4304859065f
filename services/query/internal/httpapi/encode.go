package httpapi

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// createdAtText is RFC 3339 in UTC with all six digits of the microsecond.
const createdAtText = "2006-01-02T15:04:05.000000Z"

// writeJSON sends a body, or for HEAD its length alone: net/http drops the bytes.
func writeJSON(c *gin.Context, status int, body []byte) {
	write(c, status, "application/json", body)
}

func write(c *gin.Context, status int, contentType string, body []byte) {
	h := c.Writer.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.Status(status)
	if c.Request.Method == http.MethodHead {
		c.Writer.WriteHeaderNow()
		return
	}
	_, _ = c.Writer.Write(body) // a client that has gone needs no answer
}

// appendPage writes a page. cursor is empty on the last one.
func appendPage(b []byte, p *audit.Page, cursor string) []byte {
	b = append(b, `{"data":[`...)
	for i := range p.Events {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendEvent(b, &p.Events[i])
	}
	b = append(b, ']')
	if cursor != "" {
		b = append(b, `,"next_cursor":`...)
		b = appendString(b, cursor)
	}
	b = append(b, `,"has_more":`...)
	b = strconv.AppendBool(b, p.More)
	return append(b, '}')
}

// appendEvent writes an event. Its metadata goes out as it was stored: parsing it would change the spelling of numbers and the order of keys.
func appendEvent(b []byte, e *audit.Event) []byte {
	b = append(b, `{"id":"`...)
	b = appendUUID(b, e.ID)
	b = appendField(b, `","actor_id":`, e.ActorID)
	b = appendField(b, `,"actor_type":`, e.ActorType)
	b = appendField(b, `,"action":`, e.Action)
	b = appendField(b, `,"resource_type":`, e.ResourceType)
	b = appendField(b, `,"resource_id":`, e.ResourceID)
	b = append(b, `,"metadata":`...)
	if len(e.Metadata) == 0 {
		b = append(b, "{}"...)
	}
	b = append(b, e.Metadata...)
	if e.Reasoning != nil {
		b = appendField(b, `,"reasoning":`, *e.Reasoning)
	}
	b = append(b, `,"created_at":"`...)
	b = appendTime(b, e.CreatedAt)
	return append(b, `"}`...)
}

func appendField(b []byte, name, value string) []byte { return appendString(append(b, name...), value) }

func appendUUID(b []byte, id uuid.UUID) []byte {
	for i, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, createdAtText) }

// appendString writes a JSON string: what JSON demands is escaped, all else is left as it is, and bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// appendError writes the body of an error.
func appendError(b []byte, e *apiError) []byte {
	body, err := json.Marshal(e)
	if err != nil {
		return append(b, `{"code":"internal","message":"Internal error."}`...)
	}
	return append(b, body...)
}
