package main

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// known is a journal of three acknowledged events of one writer, one unacknowledged, and two dead letters; and the log as it must be.
func known(t *testing.T) (*journal, *facts, []uuid.UUID) {
	t.Helper()
	j := newJournal()
	tenant := uuid.New()
	var ids []uuid.UUID
	f := &facts{letters: map[string]int{"poison": 1}}
	for n := range 4 {
		id := uuid.New()
		ids = append(ids, id)
		j.published(id, tenant, 1, n)
		if n < 3 {
			seq := uint64(10 + n)
			j.acknowledged(id, 0, seq)
			f.view = append(f.view, row{tenant: tenant, id: id, seq: seq, actor: "user"})
			f.walk = append(f.walk, row{tenant: tenant, id: id, actor: "user"})
		}
	}
	j.refuse("poison", tenant)
	j.refused("poison")
	j.refuse("in doubt", tenant)
	return j, f, ids
}

// Ensure that the checker finds each thing that can be wrong, and nothing when nothing is.
func TestCheckFinds(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(f *facts, ids []uuid.UUID)
		want  Sort
	}{
		{"nothing", func(*facts, []uuid.UUID) {}, ""},
		{"an unacknowledged event is there", func(f *facts, ids []uuid.UUID) {
			f.view = append(f.view, row{tenant: f.view[0].tenant, id: ids[3], seq: 20})
		}, ""},
		{"an unacknowledged dead letter is there", func(f *facts, _ []uuid.UUID) { f.letters["in doubt"] = 1 }, ""},
		{"the view misses an event", func(f *facts, _ []uuid.UUID) { f.view = f.view[1:] }, Missing},
		{"the API misses an event", func(f *facts, _ []uuid.UUID) { f.walk = f.walk[:2] }, Missing},
		{"an event is there twice", func(f *facts, _ []uuid.UUID) { f.walk = append(f.walk, f.walk[0]) }, Twice},
		{"an unacknowledged event is there twice", func(f *facts, ids []uuid.UUID) {
			r := row{tenant: f.view[0].tenant, id: ids[3]}
			f.walk = append(f.walk, r, r)
		}, Twice},
		{"a row was doubled", func(f *facts, _ []uuid.UUID) { f.doubled = []string{"sequence 11"} }, Twice},
		{"an unknown event is there", func(f *facts, _ []uuid.UUID) {
			f.view = append(f.view, row{tenant: f.view[0].tenant, id: uuid.New(), seq: 9})
		}, Surplus},
		{"an event is in another tenant's log", func(f *facts, _ []uuid.UUID) {
			f.walk = append(f.walk, row{tenant: uuid.New(), id: f.walk[0].id})
		}, Surplus},
		{"a later copy won", func(f *facts, _ []uuid.UUID) { f.view[1].actor = impostor }, Changed},
		{"two events change places", func(f *facts, _ []uuid.UUID) { f.view[0].seq, f.view[1].seq = 11, 10 }, Order},
		{"a dead letter is missing", func(f *facts, _ []uuid.UUID) { delete(f.letters, "poison") }, BadLetter},
		{"a dead letter is there twice", func(f *facts, _ []uuid.UUID) { f.letters["poison"] = 2 }, BadLetter},
		{"a good message was refused", func(f *facts, _ []uuid.UUID) { f.letters["good"] = 1 }, BadLetter},
		{"verify complains", func(f *facts, _ []uuid.UUID) { f.verify = "exit status 1" }, Disagree},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j, f, ids := known(t)
			tt.spoil(f, ids)
			found := check(j, f, blame([]pastFault{{number: 1, Fault: Plan(1, 10*time.Second)[0]}}))
			if tt.want == "" {
				if len(found) > 0 {
					t.Fatalf("found %v in a good log", found)
				}
				return
			}
			if len(found) != 1 || found[0].Sort != tt.want {
				t.Fatalf("found %v, want one of %q", found, tt.want)
			}
		})
	}
}
