package predicate

import (
	"strconv"
	"strings"
)

// Pattern is a text with gaps: literal pieces in order, with any bytes between them, and before the first and after the last unless anchored.
type Pattern struct {
	// Pieces are the literal texts between the wildcards, none of them empty.
	Pieces []string
	// OpenStart and OpenEnd say that a wildcard stands at that end.
	OpenStart, OpenEnd bool
}

// exact returns the only text that matches, if there is one alone.
func (p Pattern) exact() (string, bool) {
	if p.OpenStart || p.OpenEnd || len(p.Pieces) > 1 {
		return "", false
	}
	return strings.Join(p.Pieces, ""), true
}

// any says whether every text matches.
func (p Pattern) any() bool { return len(p.Pieces) == 0 && (p.OpenStart || p.OpenEnd) }

// Match says whether the whole of s matches.
func (p Pattern) Match(s string) bool {
	if text, ok := p.exact(); ok {
		return s == text
	}
	pieces := p.Pieces
	if !p.OpenStart {
		if !strings.HasPrefix(s, pieces[0]) {
			return false
		}
		s, pieces = s[len(pieces[0]):], pieces[1:]
	}
	var last string
	if !p.OpenEnd {
		last, pieces = pieces[len(pieces)-1], pieces[:len(pieces)-1]
	}
	for _, piece := range pieces {
		i := strings.Index(s, piece)
		if i < 0 {
			return false
		}
		s = s[i+len(piece):]
	}
	return strings.HasSuffix(s, last)
}

// likeEscaper makes a literal piece of a LIKE pattern.
var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// like is the pattern as SQL's LIKE writes it.
func (p Pattern) like() string {
	var b strings.Builder
	if p.OpenStart {
		b.WriteByte('%')
	}
	for i, piece := range p.Pieces {
		if i > 0 {
			b.WriteByte('%')
		}
		b.WriteString(likeEscaper.Replace(piece))
	}
	if p.OpenEnd {
		b.WriteByte('%')
	}
	return b.String()
}

func (p Pattern) writeKey(b *strings.Builder) {
	b.WriteString(strconv.FormatBool(p.OpenStart))
	for _, piece := range p.Pieces {
		b.WriteString(strconv.Quote(piece))
	}
	b.WriteString(strconv.FormatBool(p.OpenEnd))
}
