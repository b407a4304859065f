package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// Sort is what is wrong.
type Sort string

// The sorts of findings.
const (
	Missing    Sort = "acknowledged and missing"
	Twice      Sort = "there more than once"
	Surplus    Sort = "there and never published"
	Changed    Sort = "overwritten by a later copy"
	Order      Sort = "out of order"
	BadLetter  Sort = "wrong dead letters"
	Disagree   Sort = "verify disagrees"
	Undrained  Sort = "not drained"
	Unserved   Sort = "a part does not work"
	FaultError Sort = "a fault could not be made or ended"
)

// Finding is something that must not be.
type Finding struct {
	Sort  Sort
	Where string
	Count int
	First string // one of them, with all that is known
}

// String says all of it.
func (f Finding) String() string {
	s := string(f.Sort)
	if f.Where != "" {
		s += ", " + f.Where
	}
	if f.Count > 0 {
		s += fmt.Sprintf(": %d", f.Count)
	}
	return s + ": " + f.First
}

// findings gathers findings, one of each sort and place, with their number.
type findings []Finding

func (fs *findings) add(sort Sort, where, first string) {
	for i := range *fs {
		if f := &(*fs)[i]; f.Sort == sort && f.Where == where {
			f.Count++
			return
		}
	}
	*fs = append(*fs, Finding{Sort: sort, Where: where, Count: 1, First: first})
}

// count is how many findings there are of a sort and place.
func count(fs []Finding, sort Sort, where string) (n int) {
	for _, f := range fs {
		if f.Sort == sort && f.Where == where {
			n += f.Count
		}
	}
	return n
}

// check holds the log against the journal. It explains a missing event by the faults of the plan before it.
func check(j *journal, f *facts, blame func(e *entry) string) []Finding {
	j.mu.Lock()
	defer j.mu.Unlock()
	var fs findings
	checkRows(&fs, j, "in the view", f.view, blame)
	checkRows(&fs, j, "in the API's walk", f.walk, blame)
	checkOrder(&fs, j, f.view)
	checkLetters(&fs, j, f.letters)
	for _, text := range f.doubled {
		fs.add(Twice, "in the table before folding", text)
	}
	if f.verify != "" {
		fs.add(Disagree, "", f.verify)
	}
	return fs
}

// checkRows: every acknowledged event once, the others at most once, nothing else, and all as first published.
func checkRows(fs *findings, j *journal, where string, rows []row, blame func(e *entry) string) {
	seen := make(map[uuid.UUID]int, len(rows))
	for _, r := range rows {
		e := j.events[r.id]
		if e == nil || e.tenant != r.tenant {
			fs.add(Surplus, where, fmt.Sprintf("tenant %s, event %s", r.tenant, r.id))
			continue
		}
		if seen[r.id]++; seen[r.id] == 2 {
			fs.add(Twice, where, describe(r.id, e))
		}
		if r.actor == impostor {
			fs.add(Changed, where, describe(r.id, e))
		}
	}
	for id, e := range j.events {
		if e.acked && seen[id] == 0 {
			fs.add(Missing, where, describe(id, e)+blame(e))
		}
	}
}

func describe(id uuid.UUID, e *entry) string {
	return fmt.Sprintf("tenant %s, event %s, number %d of writer %d, acknowledged at +%.3fs as sequence %d", e.tenant, id, e.n, e.writer, e.at.Seconds(), e.seq)
}

// checkOrder: what one writer published of one tenant, and was acknowledged, stands in the stream's order as it was published.
func checkOrder(fs *findings, j *journal, rows []row) {
	type line struct {
		tenant uuid.UUID
		writer int
	}
	type point struct {
		n   int
		seq uint64
		id  uuid.UUID
	}
	lines := map[line][]point{}
	for _, r := range rows {
		if e := j.events[r.id]; e != nil && e.acked {
			key := line{e.tenant, e.writer}
			lines[key] = append(lines[key], point{e.n, r.seq, r.id})
		}
	}
	for key, points := range lines {
		slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.n, b.n) })
		for i := 1; i < len(points); i++ {
			if a, b := points[i-1], points[i]; b.seq < a.seq {
				fs.add(Order, "", fmt.Sprintf("tenant %s, writer %d: number %d (%s) has sequence %d, number %d (%s) has %d",
					key.tenant, key.writer, a.n, a.id, a.seq, b.n, b.id, b.seq))
			}
		}
	}
}

// checkLetters: every acknowledged message that cannot be a row once, the others at most once, nothing else.
func checkLetters(fs *findings, j *journal, there map[string]int) {
	for text, n := range there {
		if j.letters[text] == nil {
			fs.add(BadLetter, "never published as poison", text)
		} else if n > 1 {
			fs.add(BadLetter, "more than once", fmt.Sprintf("%d times %s", n, text))
		}
	}
	for text, l := range j.letters {
		if l.acked && there[text] == 0 {
			fs.add(BadLetter, "missing", fmt.Sprintf("tenant %s: %s", l.tenant, text))
		}
	}
}
