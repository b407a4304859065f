package audit

import (
	"crypto/cipher"
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"

	"github.com/google/uuid"
)

// kindFeed marks positions in a feed. A cursor of one kind is none of the other.
const kindFeed = 2

// FeedQuery asks for the events of a tenant in the order they were taken in.
type FeedQuery struct {
	Tenant uuid.UUID
	Filter Filter
	// After is the sequence up to which the reader has seen everything; 0 for the beginning.
	After uint64
	// Through is the sequence up to which everything is in the store. What lies beyond it is not shown yet.
	Through uint64
	// Limit is the most events to return, from 1 to MaxLimit.
	Limit int
}

// FeedPage is a stretch of a feed.
type FeedPage struct {
	// Events are in the order of Seq, each at its first copy.
	Events []Event
	// Through is the sequence up to which the reader has now seen everything: where the next page begins.
	Through uint64
	// More says that the page ends before the query's Through. It may do so without being full, or with no event at all, where few events match.
	More bool
}

// EncodeFeed is the cursor for the events of tenant that match f, which must be normalized, with a sequence above seq.
func (c *Cursors) EncodeFeed(tenant uuid.UUID, f *Filter, seq uint64) string {
	var out [cursorBytes]byte
	out[0] = cursorVersion
	body := out[1+tagBytes:]
	binary.BigEndian.PutUint64(body, seq)
	tag := c.tag(kindFeed, tenant, f, body)
	copy(out[1:], tag)
	cipher.NewCTR(c.block, tag).XORKeyStream(body, body)
	return base64.RawURLEncoding.EncodeToString(out[:])
}

// DecodeFeed is the sequence in a cursor that EncodeFeed made for the same tenant and filters, else ErrCursor.
func (c *Cursors) DecodeFeed(text string, tenant uuid.UUID, f *Filter) (uint64, error) {
	body, err := c.open(kindFeed, text, tenant, f)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(body), nil
}

// open is what is in a cursor of this kind, tenant and filters, else ErrCursor.
func (c *Cursors) open(kind byte, text string, tenant uuid.UUID, f *Filter) ([]byte, error) {
	if len(text) != MaxCursorText {
		return nil, ErrCursor
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != cursorBytes || raw[0] != cursorVersion {
		return nil, ErrCursor
	}
	tag, body := raw[1:1+tagBytes], raw[1+tagBytes:]
	cipher.NewCTR(c.block, tag).XORKeyStream(body, body)
	if !hmac.Equal(tag, c.tag(kind, tenant, f, body)) {
		return nil, ErrCursor
	}
	return body, nil
}
