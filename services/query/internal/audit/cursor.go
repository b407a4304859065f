package audit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/google/uuid"
)

// ErrCursor means that a cursor was not made here, was changed, or belongs to another tenant or other filters. It does not say which.
var ErrCursor = errors.New("cursor is not valid for this tenant and these filters")

const (
	// cursorVersion is the first byte of a cursor: another layout takes another number.
	cursorVersion = 1
	// kindPage marks positions in a walk by (created_at, id).
	kindPage = 1

	// SecretBytes is the least length of the secret that cursors are made with.
	SecretBytes = 32

	tagBytes      = 16
	positionBytes = 8 + 16
	cursorBytes   = 1 + tagBytes + positionBytes
)

// MaxCursorText is the length of a cursor's text. Anything longer is none.
var MaxCursorText = base64.RawURLEncoding.EncodedLen(cursorBytes)

// Cursors turns positions into texts and back. A text is encrypted, so that nobody comes to rely on what is in it, and authenticated together
// with tenant and filters, so that it can be neither made nor moved. The same question gives the same text on every instance that has the
// secret, for ever. It is safe for concurrent use.
type Cursors struct {
	macKey []byte
	block  cipher.Block
}

// NewCursors derives the keys from a secret of SecretBytes or more.
func NewCursors(secret []byte) (*Cursors, error) {
	if len(secret) < SecretBytes {
		return nil, fmt.Errorf("make cursors: the secret has %d bytes, %d are needed", len(secret), SecretBytes)
	}
	macKey, err := hkdf.Key(sha256.New, secret, nil, "auditlog cursor mac", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of cursors: %w", err)
	}
	encKey, err := hkdf.Key(sha256.New, secret, nil, "auditlog cursor cipher", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of cursors: %w", err)
	}
	block, err := aes.NewCipher(encKey)
	if err != nil {
		return nil, fmt.Errorf("make the cipher of cursors: %w", err)
	}
	return &Cursors{macKey: macKey, block: block}, nil
}

// Encode is the cursor for the events after p in the walk of tenant through f, which must be normalized.
func (c *Cursors) Encode(tenant uuid.UUID, f *Filter, p Position) string {
	var out [cursorBytes]byte
	out[0] = cursorVersion
	body := out[1+tagBytes:]
	binary.BigEndian.PutUint64(body, uint64(p.CreatedAt.UnixMicro())) //nolint:gosec // the bits are what counts
	copy(body[8:], p.ID[:])
	tag := c.tag(kindPage, tenant, f, body)
	copy(out[1:], tag)
	// The tag is the initialization vector: it depends on all of the plain text, so no two texts share a key stream.
	cipher.NewCTR(c.block, tag).XORKeyStream(body, body)
	return base64.RawURLEncoding.EncodeToString(out[:])
}

// Decode is the position in a cursor that Encode made for the same tenant and filters, else ErrCursor.
func (c *Cursors) Decode(text string, tenant uuid.UUID, f *Filter) (Position, error) {
	body, err := c.open(kindPage, text, tenant, f)
	if err != nil {
		return Position{}, err
	}
	p := Position{CreatedAt: time.UnixMicro(int64(binary.BigEndian.Uint64(body))).UTC()} //nolint:gosec // the bits are what counts
	copy(p.ID[:], body[8:])
	return p, nil
}

// tag authenticates everything that decides a walk: its kind, tenant, filters and position. The limit may change from page to page.
func (c *Cursors) tag(kind byte, tenant uuid.UUID, f *Filter, position []byte) []byte {
	m := hmac.New(sha256.New, c.macKey)
	m.Write([]byte{cursorVersion, kind})
	m.Write(tenant[:])
	m.Write(position)
	for _, values := range [][]string{f.ActorIDs, f.ResourceTypes, f.ResourceIDs, f.Actions} {
		writeNumber(m, uint64(len(values)))
		for _, v := range values {
			writeNumber(m, uint64(len(v)))
			m.Write([]byte(v))
		}
	}
	for _, bound := range []time.Time{f.From, f.To} {
		if bound.IsZero() {
			m.Write([]byte{0})
			continue
		}
		m.Write([]byte{1})
		writeNumber(m, uint64(bound.UnixMicro())) //nolint:gosec // the bits are what counts
	}
	return m.Sum(nil)[:tagBytes]
}

// writeNumber writes n in eight bytes, so that no two lists of values give the same bytes.
func writeNumber(h hash.Hash, n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h.Write(b[:])
}
