package httpapi

import (
	"regexp"
	"strings"
	"time"
)

// dateTime is the shape of RFC 3339. The time package also takes a comma for the point, hours of one digit and offsets of a hundred hours.
var dateTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// parseTime reads RFC 3339's date-time as producers may write it: T and Z in either case, digits beyond the nanosecond rounded up, a leap second
// counted as the second that follows. A zero result is moved off zero, which means "not given" to a filter.
func parseTime(s string) (time.Time, bool) {
	const seconds = len("2006-01-02T15:04:")
	s = strings.ToUpper(s)
	if !dateTime.MatchString(s) {
		return time.Time{}, false
	}
	leap := s[seconds:seconds+2] == "60"
	if leap {
		s = s[:seconds] + "59" + s[seconds+2:]
	}
	s, rest := cutFraction(s)
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, false
	}
	if leap {
		t = t.Truncate(time.Second).Add(time.Second)
		if u := t.UTC(); u.Day() != 1 || u.Hour() != 0 || u.Minute() != 0 || u.Second() != 0 {
			return time.Time{}, false
		}
	}
	if rest {
		t = t.Add(time.Nanosecond)
	}
	if t.IsZero() {
		t = t.Add(time.Nanosecond)
	}
	return t, true
}

// cutFraction cuts the digits of a second's fraction after the ninth and says whether they were more than zeros.
func cutFraction(s string) (cut string, more bool) {
	dot := strings.IndexByte(s, '.')
	if dot < 0 {
		return s, false
	}
	end := dot + 1
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	const digits = 9
	if end-dot-1 <= digits {
		return s, false
	}
	ninth := dot + 1 + digits
	return s[:ninth] + s[end:], strings.Trim(s[ninth:end], "0") != ""
}
