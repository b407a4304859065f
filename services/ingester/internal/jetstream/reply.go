package jetstream

import (
	"errors"
	"time"
)

// errReply is returned for a message that does not come from a consumer.
var errReply = errors.New("reply subject is not a consumer's")

// delivery is what the server says about a message it delivers.
type delivery struct {
	stream, consumer uint64 // sequences
	at               time.Time
	pending          uint64 // messages that are still to come
}

// parseReply reads the reply subject of a delivered message without allocating, which Msg.Metadata does for every message:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]
func parseReply(s string) (d delivery, err error) {
	const prefix = "$JS.ACK."
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return d, errReply
	}
	const most = 11
	var dots [most + 1]int
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] == '.' {
			if n == most {
				return d, errReply
			}
			dots[n] = i
			n++
		}
	}
	first := 0 // which dot stands before the stream sequence
	switch n {
	case 8:
		first = 4
	case 10, most:
		first = 6
	default:
		return d, errReply
	}
	dots[n] = len(s) // what follows the last dot ends here
	token := func(i int) (uint64, bool) { return parseNumber(s[dots[i]+1 : dots[i+1]]) }
	nanos, ok1 := token(first + 2)
	var ok2, ok3, ok4 bool
	d.stream, ok2 = token(first)
	d.consumer, ok3 = token(first + 1)
	d.pending, ok4 = token(first + 3)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return d, errReply
	}
	d.at = time.Unix(0, int64(nanos)).UTC() //nolint:gosec // as the server wrote it
	return d, nil
}

func parseNumber(s string) (n uint64, ok bool) {
	for i := 0; i < len(s); i++ {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	return n, len(s) > 0
}
