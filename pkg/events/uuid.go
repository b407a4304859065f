package events

import "github.com/google/uuid"

// Which letters parseUUID takes as hexadecimal digits.
const (
	anyCase   = 0
	lowerCase = 1
)

const notHex = 0xff

// hexDigits holds the value of each hexadecimal digit, first with either case, then with lower case alone.
var hexDigits = func() (t [2][256]byte) {
	for i := range t {
		for c := range t[i] {
			t[i][c] = notHex
		}
		for c := byte(0); c < 10; c++ {
			t[i]['0'+c] = c
		}
		for c := byte(0); c < 6; c++ {
			t[i]['a'+c] = 10 + c
		}
	}
	for c := byte(0); c < 6; c++ {
		t[anyCase]['A'+c] = 10 + c
	}
	return t
}()

// uuidAt is where each byte of a UUID stands in its text.
var uuidAt = [16]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// parseUUID reads the form 8-4-4-4-12 and no other; uuid.Parse takes braces, "urn:uuid:" and bare digits as well.
func parseUUID[T string | []byte](s T, letters int) (id uuid.UUID, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return uuid.Nil, false
	}
	t := &hexDigits[letters]
	bad := byte(0)
	for i, at := range uuidAt {
		hi, lo := t[s[at]], t[s[at+1]]
		bad |= hi | lo
		id[i] = hi<<4 | lo&15
	}
	if bad > 15 {
		return uuid.Nil, false
	}
	return id, true
}

// encodeUUID writes the lower-case text of id.
func encodeUUID(text *[36]byte, id uuid.UUID) {
	const hex = "0123456789abcdef"
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	for i, at := range uuidAt {
		text[at], text[at+1] = hex[id[i]>>4], hex[id[i]&15]
	}
}
