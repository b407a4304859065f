package events

import (
	"encoding/binary"
	"math/bits"
	"strconv"
)

// scanner walks over one JSON text (RFC 8259, strictly) without building anything. Its position only moves forward; the first error sticks.
// It does not judge UTF-8 inside strings but says whether there is anything to judge.
type scanner struct {
	data []byte
	pos  int
	// problem is what is wrong at pos, empty as long as the text is well formed.
	problem string
	// open holds the brackets that are open inside skipValue. It grows with the nesting and is kept for the next text, so that
	// nesting costs no stack and no bound is needed here.
	open []byte
}

// text is a string as it stands between its quotes.
type text struct {
	raw []byte
	// escaped says that raw has backslashes, wide that it has bytes beyond ASCII.
	escaped, wide bool
}

// Kinds of values, by their names in messages.
const (
	kindObject = "an object"
	kindArray  = "an array"
	kindString = "a string"
	kindNumber = "a number"
	kindBool   = "a boolean"
	kindNull   = "null"
)

const problemEnd = "the text ends too early"

func (s *scanner) reset(data []byte) {
	s.data, s.pos, s.problem = data, 0, ""
}

// fail records a problem and is false, for the caller to return.
func (s *scanner) fail(problem string) bool {
	if s.problem == "" {
		s.problem = problem
	}
	return false
}

// rule is the problem as the rule of a Fault.
func (s *scanner) rule() string {
	return "is not valid JSON: at byte " + strconv.Itoa(s.pos) + " " + s.problem
}

// space skips white space and returns the byte that follows, or 0 at the end.
func (s *scanner) space() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// unexpected records that something else should stand here.
func (s *scanner) unexpected(want string) bool {
	if s.pos >= len(s.data) {
		return s.fail(problemEnd)
	}
	return s.fail("there should be " + want)
}

// accept steps over c, which must be next.
func (s *scanner) accept(c byte, want string) bool {
	if s.space() != c {
		return s.unexpected(want)
	}
	s.pos++
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// scanString reads a string whose opening quote is next.
func (s *scanner) scanString() (t text, ok bool) {
	data, i := s.data, s.pos+1
	start := i
	wideMask := uint64(highs) // cleared at the first wide byte: the rest of the string need not stop at them
	for {
		// Eight bytes at a time as long as none of them is a quote, a backslash, a control character or the first wide one. The
		// borrow of a subtraction can only raise false marks above a true one, so the lowest mark is right.
		for i+8 <= len(data) {
			x := binary.LittleEndian.Uint64(data[i:])
			quote, slash := x^(ones*'"'), x^(ones*'\\')
			mark := ((quote-ones)&^quote | (slash-ones)&^slash | (x-ones*' ')&^x) & highs
			mark |= x & wideMask
			if mark != 0 {
				i += bits.TrailingZeros64(mark) >> 3
				break
			}
			i += 8
		}
		if i >= len(data) {
			s.pos = len(data)
			return t, s.fail(problemEnd)
		}
		switch c := data[i]; {
		case c == '"':
			t.raw = data[start:i]
			s.pos = i + 1
			return t, true
		case c == '\\':
			t.escaped = true
			n := escapeLength(data[i:])
			if n == 0 {
				s.pos = i
				return t, s.fail("there is a backslash that begins no escape")
			}
			i += n
		case c < ' ':
			s.pos = i
			return t, s.fail("there is a control character inside a string, which must be escaped")
		default:
			if c >= 0x80 {
				t.wide = true
				wideMask = 0
			}
			i++
		}
	}
}

// escapeLength is how many bytes the escape at the beginning of b takes, 0 when it is none.
func escapeLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex4(b[2:]); ok {
			return 6
		}
	}
	return 0
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	t := &hexDigits[anyCase]
	for _, c := range b[:4] {
		d := t[c]
		if d == notHex {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

// scanNumber reads a number: -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?
func (s *scanner) scanNumber() bool {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return false
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c = s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		return s.digits()
	}
	return true
}

// peek is the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// digits steps over at least one decimal digit.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
	}
	if s.pos == start {
		return s.unexpected("a digit")
	}
	return true
}

func (s *scanner) literal(word string) bool {
	if len(s.data)-s.pos < len(word) || string(s.data[s.pos:s.pos+len(word)]) != word {
		return s.fail("there should be a value")
	}
	s.pos += len(word)
	return true
}

// value describes what skipValue stepped over.
type value struct {
	kind string
	// depth is how many objects and arrays stood inside one another, 0 for a plain value.
	depth int
	// wide says that some string in it has bytes beyond ASCII.
	wide bool
}

// skipValue steps over any value, which must be next, white space before it allowed.
func (s *scanner) skipValue() (v value, ok bool) {
	s.open = s.open[:0]
	for {
		// A value is due.
		kind := ""
		switch c := s.space(); c {
		case '{', '[':
			kind = kindArray
			if c == '{' {
				kind = kindObject
			}
			s.pos++
			s.open = append(s.open, c)
			v.depth = max(v.depth, len(s.open))
		case '"':
			kind = kindString
			t, _ := s.scanString()
			v.wide = v.wide || t.wide
		case 't':
			kind = kindBool
			s.literal("true")
		case 'f':
			kind = kindBool
			s.literal("false")
		case 'n':
			kind = kindNull
			s.literal("null")
		default:
			if c != '-' && c-'0' > 9 {
				return v, s.unexpected("a value")
			}
			kind = kindNumber
			s.scanNumber()
		}
		if s.problem != "" { // of any of the above
			return v, false
		}
		if v.kind == "" {
			v.kind = kind
		}
		done, ok := s.next(&v, kind == kindObject || kind == kindArray)
		if !ok || done {
			return v, ok
		}
	}
}

// next moves from a value, or from an opening bracket, to where the next value is due. It is done when no bracket is open any more.
func (s *scanner) next(v *value, opened bool) (done, ok bool) {
	for len(s.open) > 0 {
		c, object := s.space(), s.open[len(s.open)-1] == '{'
		switch {
		case object && c == '}', !object && c == ']':
			s.pos++
			s.open = s.open[:len(s.open)-1]
			opened = false
			continue
		case !opened:
			if c != ',' {
				if object {
					return false, s.unexpected("a comma or }")
				}
				return false, s.unexpected("a comma or ]")
			}
			s.pos++
		}
		if object {
			return false, s.key(v)
		}
		return false, true
	}
	return true, true
}

// key steps over the name of a member and its colon.
func (s *scanner) key(v *value) bool {
	if s.space() != '"' {
		return s.unexpected("a name in quotes")
	}
	t, ok := s.scanString()
	if !ok {
		return false
	}
	v.wide = v.wide || t.wide
	return s.accept(':', "a colon")
}
