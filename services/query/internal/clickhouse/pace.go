package clickhouse

import (
	"hash/maphash"
	"maps"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
)

// rememberedQuestions bounds what is remembered about questions, at about a hundred bytes each.
const rememberedQuestions = 10_000

// paces remembers of each question that was asked, a tenant with a filter and a scope, how far apart the events lie that answer it. The next page of the same
// walk, or the same page again, is looked for in a stretch of that length at once, which saves a query or two. A pace that has changed or is
// another question's costs time alone. Safe for concurrent use.
type paces struct {
	seed maphash.Seed
	seen *lru.Cache[uint64, float64]
}

func newPaces() *paces {
	seen, err := lru.New[uint64, float64](rememberedQuestions)
	if err != nil {
		panic(err) // a size of zero or less
	}
	return &paces{seed: maphash.MakeSeed(), seen: seen}
}

// question names what a statement asks, before any bounds in time were added to it.
func (p *paces) question(s *statement) uint64 {
	var h maphash.Hash
	h.SetSeed(p.seed)
	write := func(text string) {
		_, _ = h.WriteString(text) // never fails
		_ = h.WriteByte(0)
	}
	for _, term := range s.terms {
		write(term)
	}
	for _, name := range slices.Sorted(maps.Keys(s.args)) {
		write(name)
		write(s.args[name])
	}
	return h.Sum64()
}

// of is the seconds from one event to the next of those that answer a question: infinite when there were fewer than a page, 0 when nothing is known.
func (p *paces) of(question uint64) float64 {
	pace, _ := p.seen.Get(question)
	return pace
}

// note remembers the seconds from one event to the next.
func (p *paces) note(question uint64, pace float64) { p.seen.Add(question, pace) }
