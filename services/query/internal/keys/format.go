package keys

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"
)

// A key's text is alk_<id>_<secret><checksum>, so that a double click selects it, secret scanners find it and a typo is refused without a
// look-up. The secret has 256 bits of chance: one round of SHA-256 keeps it as safe as a slow hash would.
const (
	// Prefix begins every key.
	Prefix = "alk_"
	// IDLength is the number of characters of a key's id.
	IDLength = 12

	secretLength   = 43
	checksumLength = 6
	textLength     = len(Prefix) + IDLength + 1 + secretLength + checksumLength

	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// newText makes a key.
func newText() (id, text string) {
	id = random62(IDLength)
	body := Prefix + id + "_" + random62(secretLength)
	return id, body + checksum(body)
}

// random62 draws n characters, each as likely as the others. crypto/rand ends the process rather than fail.
func random62(n int) string {
	const fair = 256 / len(base62) * len(base62) // bytes from here on would favour the first characters
	out := make([]byte, 0, n)
	var buf [64]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:])
		for _, b := range buf {
			if int(b) < fair && len(out) < n {
				out = append(out, base62[int(b)%len(base62)])
			}
		}
	}
	return string(out)
}

// checksum is CRC-32 (IEEE) in base 62. It finds typos; it is no protection against anybody.
func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	var out [checksumLength]byte
	for i := checksumLength - 1; i >= 0; i-- {
		out[i] = base62[sum%uint32(len(base62))]
		sum /= uint32(len(base62))
	}
	return string(out[:])
}

// parse finds the id in a key's text and says whether the text can be a key at all.
func parse(text string) (id string, ok bool) {
	if len(text) != textLength || !strings.HasPrefix(text, Prefix) || text[len(Prefix)+IDLength] != '_' {
		return "", false
	}
	body := text[:textLength-checksumLength]
	if checksum(body) != text[len(body):] {
		return "", false
	}
	id = text[len(Prefix) : len(Prefix)+IDLength]
	return id, validID(id)
}

func validID(id string) bool {
	return len(id) == IDLength && strings.Trim(id, base62) == ""
}

// digest is what is kept of a key: SHA-256 of its whole text.
type digest [sha256.Size]byte

func digestOf(text string) digest { return sha256.Sum256([]byte(text)) }

// equal compares without telling by its time where they differ.
func (d digest) equal(o digest) bool { return subtle.ConstantTimeCompare(d[:], o[:]) == 1 }

// MarshalText writes hexadecimal digits.
func (d digest) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(d[:])), nil }

// UnmarshalText reads what MarshalText writes.
func (d *digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("read a key's hash: %d characters, not %d", len(text), hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return fmt.Errorf("read a key's hash: %w", err)
	}
	return nil
}
