package main

import "fmt"

// verdicts are the targets, each with what was measured.
type verdicts struct{ lines []string }

func (v *verdicts) add(what string, value float64, sign string, target float64, met bool) {
	verdict := "met"
	if !met {
		verdict = "MISSED"
	}
	v.lines = append(v.lines, fmt.Sprintf("%-70s %10.4g  %-2s %-8g %s", what, value, sign, target, verdict))
}

func (v *verdicts) atMost(what string, value, target float64) {
	v.add(what, value, "<=", target, value <= target)
}

func (v *verdicts) below(what string, value, target float64) {
	v.add(what, value, "<", target, value < target)
}

func (v *verdicts) atLeast(what string, value, target float64) {
	v.add(what, value, ">=", target, value >= target)
}

func (v *verdicts) print() {
	fmt.Println("\n  targets")
	for _, line := range v.lines {
		fmt.Println("  " + line)
	}
}
