package audit

import (
	"slices"
	"time"
)

// Every event lies between these two moments, by the rules of pkg/events and the range of the store's type.
var (
	earliest = time.Unix(0, 0).UTC()
	latest   = time.Date(2290, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Normalize brings filters that mean the same into one form: values sorted and each once, bounds in UTC, at the microsecond (the store knows no
// finer time, and a half-open bound between two microseconds means the later one) and within the times that events can have.
func (f *Filter) Normalize() {
	for _, values := range []*[]string{&f.ActorIDs, &f.ResourceTypes, &f.ResourceIDs, &f.Actions} {
		slices.Sort(*values)
		*values = slices.Compact(*values)
	}
	for _, bound := range []*time.Time{&f.From, &f.To} {
		if !bound.IsZero() {
			*bound = clamp(ceilMicro(*bound))
		}
	}
}

// ceilMicro is the first microsecond that is not before t.
func ceilMicro(t time.Time) time.Time {
	if cut := t.Truncate(time.Microsecond); !cut.Equal(t) {
		return cut.Add(time.Microsecond)
	}
	return t
}

func clamp(t time.Time) time.Time {
	switch {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t.UTC()
}

// Nothing says that no event can match, whatever the log holds: the time between the bounds is empty.
func (f *Filter) Nothing() bool { return !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To) }

// Narrows says that the filter looks at more than the time.
func (f *Filter) Narrows() bool {
	return len(f.ActorIDs)+len(f.ResourceTypes)+len(f.ResourceIDs)+len(f.Actions) > 0
}
