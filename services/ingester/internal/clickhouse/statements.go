package clickhouse

import "strings"

// statements cuts a file of SQL at its semicolons, those in comments, texts and quoted names excepted, and leaves out what is only white space
// and comments.
func statements(sql string) []string {
	var out []string
	start, empty := 0, true
	add := func(end int) {
		if !empty {
			out = append(out, strings.TrimSpace(sql[start:end]))
		}
		start, empty = end+1, true
	}
	for i := 0; i < len(sql); i++ {
		switch c := sql[i]; {
		case c == ';':
			add(i)
		case strings.HasPrefix(sql[i:], "--"):
			i = after(sql, i+2, "\n")
		case strings.HasPrefix(sql[i:], "/*"):
			i = after(sql, i+2, "*/")
		case c == '\'' || c == '"' || c == '`':
			i, empty = closing(sql, i), false
		case c != ' ' && c != '\t' && c != '\n' && c != '\r':
			empty = false
		}
	}
	add(len(sql))
	return out
}

// after is the last byte of the first end from position from on, or that of sql.
func after(sql string, from int, end string) int {
	if n := strings.Index(sql[from:], end); n >= 0 {
		return from + n + len(end) - 1
	}
	return len(sql) - 1
}

// closing is the position of the quote that closes the one at open; a backslash takes the meaning from what follows it.
func closing(sql string, open int) int {
	for i := open + 1; i < len(sql); i++ {
		switch sql[i] {
		case '\\':
			i++
		case sql[open]:
			return i
		}
	}
	return len(sql) - 1
}
