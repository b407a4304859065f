package company_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"example.com/auditlog/deploy/auditlog/internal/company"
)

var day = time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC)

// Ensure a day can be published twice without a change: the same events, ids included.
func TestDayIsRepeatable(t *testing.T) {
	a, b := slices.Collect(company.Day(day, 500)), slices.Collect(company.Day(day, 500))
	if !reflect.DeepEqual(a, b) {
		t.Fatal("the same day differs from itself")
	}
	if c := slices.Collect(company.Day(day.AddDate(0, 0, 1), 500)); c[0].ID == a[0].ID {
		t.Fatal("another day has the same ids")
	}
}

// Ensure the day looks like one: valid events in order within the day, many kinds and actions, skewed tenants, reasons from agents.
func TestDayIsRealistic(t *testing.T) {
	kinds, actions, tenants, reasons := map[string]int{}, map[string]int{}, map[string]int{}, 0
	last := day.Truncate(24 * time.Hour)
	for ev := range company.Day(day, 20_000) {
		if err := ev.Validate(); err != nil {
			t.Fatalf("%+v: %v", ev, err)
		}
		if ev.CreatedAt.Before(last) || !ev.CreatedAt.Before(day.Truncate(24*time.Hour).Add(24*time.Hour)) {
			t.Fatalf("%s is out of order or of the day", ev.CreatedAt)
		}
		last = ev.CreatedAt
		kinds[ev.ActorType]++
		actions[ev.Action]++
		tenants[ev.TenantID.String()]++
		if ev.Reasoning != nil {
			reasons++
		}
	}
	if len(kinds) < 20 || len(actions) < 50 || len(tenants) != len(company.Tenants) || reasons < 500 {
		t.Errorf("%d kinds, %d actions, %d tenants, %d reasons", len(kinds), len(actions), len(tenants), reasons)
	}
	if big, small := tenants[company.Tenants[0].ID.String()], tenants[company.Tenants[4].ID.String()]; big < 20*small {
		t.Errorf("tenants are not skewed: %d and %d", big, small)
	}
}
