package erasure

import "encoding/json"

// Fields are the keys of metadata whose values go.
type Fields map[string]struct{}

// FieldSet makes Fields of a list.
func FieldSet(names []string) Fields {
	out := make(Fields, len(names))
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

// Strip puts null in place of the value of each field, at any depth and as often as it comes, and leaves every other byte as it is. metadata must be valid
// JSON. It returns metadata itself when there is nothing to change.
func (f Fields) Strip(metadata []byte) (out []byte, changed bool) {
	data, kept := metadata, 0 // up to kept data is in out
	for i := 0; i < len(data); {
		if data[i] != '"' {
			i++
			continue
		}
		end := stringEnd(data, i)
		colon := space(data, end)
		if colon == len(data) || data[colon] != ':' || !f.have(data[i:end]) {
			i = end
			continue
		}
		value := space(data, colon+1)
		i = valueEnd(data, value)
		if string(data[value:i]) == "null" {
			continue
		}
		out = append(append(out, data[kept:value]...), "null"...)
		kept, changed = i, true
	}
	if !changed {
		return data, false
	}
	return append(out, data[kept:]...), true
}

// have says whether a key, with its quotes, is one of them.
func (f Fields) have(key []byte) bool {
	plain := key[1 : len(key)-1]
	for _, c := range plain {
		if c != '\\' {
			continue
		}
		var text string
		_ = json.Unmarshal(key, &text) // it is a string
		_, is := f[text]
		return is
	}
	_, is := f[string(plain)]
	return is
}

// stringEnd is behind the string that begins at i.
func stringEnd(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// space is the first byte from i on that is no white space.
func space(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\t' || data[i] == '\n' || data[i] == '\r') {
		i++
	}
	return i
}

// valueEnd is behind the value that begins at i.
func valueEnd(data []byte, i int) int {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			if i = stringEnd(data, i); depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // behind a number or word
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}
