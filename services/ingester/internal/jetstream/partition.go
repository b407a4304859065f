package jetstream

// partitionOf reads the partition from a subject the stream stores under; -1 for any other.
func partitionOf(subject string) int {
	const prefix = "audit.log."
	if len(subject) < len(prefix) || subject[:len(prefix)] != prefix {
		return -1
	}
	n, digits := 0, 0
	for i := len(prefix); i < len(subject) && subject[i] != '.'; i++ {
		c := subject[i] - '0'
		if c > 9 || digits == 5 {
			return -1
		}
		n = n*10 + int(c)
		digits++
	}
	if digits == 0 {
		return -1
	}
	return n
}
