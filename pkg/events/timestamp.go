package events

import "time"

const (
	microsPerSecond = 1_000_000
	secondsPerDay   = 24 * 60 * 60
	// microDigits is how many digits of a second's fraction count.
	microDigits = 6
)

// parseTime reads RFC 3339's date-time, strictly, into microseconds since 1970 UTC; digits beyond the microsecond are cut. T and Z may be
// lower case, as the RFC has it. A leap second (23:59:60 UTC at the end of a month, the RFC allows no other) counts as the second that follows,
// as in POSIX. time.Parse takes a comma for the point, hours of one digit and more that is not RFC 3339.
func parseTime[T string | []byte](s T) (micros int64, ok bool) {
	const shortest = len("2006-01-02T15:04:05Z")
	if len(s) < shortest || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	bad := false
	two := func(i int) int {
		hi, lo := s[i]-'0', s[i+1]-'0'
		bad = bad || hi > 9 || lo > 9
		return int(hi)*10 + int(lo)
	}
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, minute, second := two(11), two(14), two(17)
	if bad || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 60 {
		return 0, false
	}
	i, fraction := 19, int64(0)
	if s[i] == '.' {
		first := i + 1
		for i++; i < len(s) && s[i]-'0' <= 9; i++ {
			if i-first < microDigits {
				fraction = fraction*10 + int64(s[i]-'0')
			}
		}
		if i == first {
			return 0, false
		}
		for n := i - first; n < microDigits; n++ {
			fraction *= 10
		}
	}
	offset := 0
	switch rest := len(s) - i; {
	case rest == 1 && s[i]|0x20 == 'z':
	case rest == 6 && (s[i] == '+' || s[i] == '-') && s[i+3] == ':':
		h, m := two(i+1), two(i+4)
		if bad || h > 23 || m > 59 {
			return 0, false
		}
		offset = (h*60 + m) * 60
		if s[i] == '-' {
			offset = -offset
		}
	default:
		return 0, false
	}
	unix := int64(daysSince1970(year, month, day))*secondsPerDay + int64(hour*3600+minute*60+second-offset)
	if second == 60 && !startsMonth(unix) {
		return 0, false
	}
	return unix*microsPerSecond + fraction, true
}

// daysIn is the number of days of a month.
func daysIn(year, month int) int {
	if month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0) {
		return 29
	}
	return int([...]byte{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1])
}

// daysSince1970 counts in years that begin in March, so that the leap day is the last.
func daysSince1970(year, month, day int) int {
	if month <= 2 {
		year--
		month += 12
	}
	const marchFirstYear0 = 719468 // days from 1 March of year 0 to 1970
	return 365*year + floorDiv(year, 4) - floorDiv(year, 100) + floorDiv(year, 400) + (153*(month-3)+2)/5 + day - 1 - marchFirstYear0
}

// floorDiv rounds down; January of the year 0 belongs to the year -1.
func floorDiv(a, b int) int {
	if a < 0 {
		return -((b - 1 - a) / b)
	}
	return a / b
}

// startsMonth says whether a time is the very beginning of a month, in UTC.
func startsMonth(unix int64) bool {
	t := time.Unix(unix, 0).UTC()
	return unix%secondsPerDay == 0 && t.Day() == 1
}
