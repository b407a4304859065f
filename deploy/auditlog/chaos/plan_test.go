package main

import (
	"reflect"
	"testing"
	"time"
)

// Ensure that a seed gives the same faults every time, and another seed others.
func TestPlanRepeats(t *testing.T) {
	a, b := Plan(7, time.Minute), Plan(7, time.Minute)
	if !reflect.DeepEqual(a, b) {
		t.Error("two plans of one seed differ")
	}
	if reflect.DeepEqual(a, Plan(8, time.Minute)) {
		t.Error("two seeds give the same plan")
	}
}

// Ensure that faults end with the run, that every kind comes, and that no target suffers two at a time.
func TestPlanShape(t *testing.T) {
	const length = 2 * time.Minute
	for seed := range uint64(20) {
		kinds := map[Kind]int{}
		until := map[string]time.Duration{}
		for _, f := range Plan(seed, length) {
			kinds[f.Kind]++
			if f.At < firstFault || f.At+f.For > length {
				t.Errorf("seed %d: %s at %s is outside the run", seed, f, f.At)
			}
			if f.At < until[f.Target] {
				t.Errorf("seed %d: %s at %s begins while %s suffers another", seed, f, f.At, f.Target)
			}
			until[f.Target] = f.At + f.For
		}
		for _, s := range shapes {
			if kinds[s.kind] < 2 {
				t.Errorf("seed %d: %s comes %d times", seed, s.kind, kinds[s.kind])
			}
		}
	}
}
