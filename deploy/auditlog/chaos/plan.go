package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is what a fault does.
type Kind string

// The kinds of faults.
const (
	KillIngester    Kind = "kill ingester"
	StopIngester    Kind = "stop ingester" // in order, as in a rolling restart
	PauseIngester   Kind = "pause ingester"
	KillClickHouse  Kind = "kill ClickHouse"
	PauseClickHouse Kind = "pause ClickHouse"
	KillNATS        Kind = "kill NATS"
	PauseNATS       Kind = "pause NATS"
	StallClickHouse Kind = "stall ingester-ClickHouse"
	ResetClickHouse Kind = "reset ingester-ClickHouse"
	LoseClickHouse  Kind = "lose replies of ClickHouse"
	StallNATS       Kind = "stall ingester-NATS"
	ResetNATS       Kind = "reset ingester-NATS"
	LoseNATS        Kind = "lose replies of NATS"
)

// ingesters is how many ingester processes share the partitions.
const ingesters = 2

// shapes lists every kind: how long it lasts, and on what. A target suffers one fault at a time.
var shapes = []struct {
	kind     Kind
	target   string
	each     bool // one target for each ingester
	min, max time.Duration
}{
	{KillIngester, "ingester", true, 0, 2 * time.Second},
	{StopIngester, "ingester", true, 0, time.Second},
	// Some pauses outlast the others' patience, so that the partitions are taken over from one who wakes up.
	{PauseIngester, "ingester", true, time.Second, 7 * time.Second},
	{KillClickHouse, "clickhouse", false, 0, 2 * time.Second},
	{PauseClickHouse, "clickhouse", false, time.Second, 4 * time.Second},
	{KillNATS, "nats", false, 0, 1500 * time.Millisecond},
	{PauseNATS, "nats", false, 500 * time.Millisecond, 3 * time.Second},
	{StallClickHouse, "link-clickhouse", true, 500 * time.Millisecond, 4 * time.Second},
	{ResetClickHouse, "link-clickhouse", true, 0, 0},
	{LoseClickHouse, "link-clickhouse", true, 500 * time.Millisecond, 2 * time.Second},
	{StallNATS, "link-nats", true, 500 * time.Millisecond, 4 * time.Second},
	{ResetNATS, "link-nats", true, 0, 0},
	{LoseNATS, "link-nats", true, 500 * time.Millisecond, 2 * time.Second},
}

// Fault is one thing that goes wrong.
type Fault struct {
	// At is when it begins, For how long it lasts; both from the beginning of the run.
	At, For time.Duration
	Kind    Kind
	// Ingester is whose it is, for a fault of one ingester.
	Ingester int
	// Target is what suffers it.
	Target string
}

// String says what happens, to whom and for how long.
func (f Fault) String() string {
	s := string(f.Kind)
	if f.Target != "clickhouse" && f.Target != "nats" {
		s += fmt.Sprintf(" (ingester %d)", f.Ingester)
	}
	if f.For > 0 {
		s += " for " + f.For.String()
	}
	return s
}

// Bounds of the time between two faults, and how long the system may work before the first.
const (
	gapMin     = 200 * time.Millisecond
	gapMax     = 2 * time.Second
	firstFault = time.Second
)

// Plan is the faults of a run that lasts length: a pure function of the seed. Every kind comes once before any comes again.
func Plan(seed uint64, length time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(seed, 0x6368616f73))
	between := func(low, high time.Duration) time.Duration {
		return (low + time.Duration(rng.Int64N(int64(high-low)+1))).Truncate(time.Millisecond)
	}
	var faults []Fault
	busy := map[string]time.Duration{}
	var deck []int
	for at := firstFault; ; at += between(gapMin, gapMax) {
		if len(deck) == 0 {
			deck = rng.Perm(len(shapes))
		}
		s := shapes[deck[0]]
		f := Fault{At: at, For: between(s.min, s.max), Kind: s.kind, Target: s.target}
		if s.each {
			f.Ingester = rng.IntN(ingesters)
			f.Target = fmt.Sprintf("%s-%d", s.target, f.Ingester)
		}
		f.At = max(f.At, busy[f.Target])
		if f.At+f.For > length {
			slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
			return faults
		}
		deck = deck[1:]
		busy[f.Target] = f.At + f.For + gapMin
		faults = append(faults, f)
	}
}
