// Package repartition is what the stream of events says, in its metadata, while the number of partitions is being changed: how far that is, and so
// which number the table has.
package repartition

import (
	"encoding/json"
	"fmt"
)

// Key is the key of the stream's metadata under which a State lies. Without it no change is under way.
const Key = "audit_repartition"

// Phase is how far a change is.
type Phase string

// The phases, in their order.
const (
	// Closed: the stream takes nothing; ingesters finish what it holds, and stop.
	Closed Phase = "closed"
	// Copying: the stream sorts by the new number; the table beside is being made. Readers go on, by the old number.
	Copying Phase = "copying"
	// Copied: the table beside is whole.
	Copied Phase = "copied"
	// Swapping: the tables may have been swapped or not. Nobody may read.
	Swapping Phase = "swapping"
	// Resetting: the new table is live, ledger and positions are being made anew.
	Resetting Phase = "resetting"
)

// State is a change that is under way.
type State struct {
	From  int   `json:"from"`
	To    int   `json:"to"`
	Phase Phase `json:"phase"`
	// Through is the last sequence that the stream stored by the old number; 0 while it is closed.
	Through uint64 `json:"through"`
	// Ledger is the last sequence of the ledger's stream before that is made anew; 0 before Resetting.
	Ledger uint64 `json:"ledger,omitempty"`
}

// Of reads the metadata of the stream; nil: no change is under way.
func Of(metadata map[string]string) (*State, error) {
	text, ok := metadata[Key]
	if !ok {
		return nil, nil
	}
	s := new(State)
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, fmt.Errorf("read %s of the stream's metadata: %w", Key, err)
	}
	return s, nil
}

// Put writes the state, nil for none, into metadata of the stream, which may be nil, and returns it.
func Put(metadata map[string]string, s *State) (map[string]string, error) {
	out := map[string]string{}
	for k, v := range metadata {
		out[k] = v
	}
	delete(out, Key)
	if s == nil {
		return out, nil
	}
	text, err := json.Marshal(s)
	out[Key] = string(text)
	return out, err
}

// Readable says by which number the table can be read; 0: not now.
func (s State) Readable() int {
	if s.Phase == Swapping || s.Phase == Resetting {
		return 0
	}
	return s.From
}

// UnderwayError is for those who must not work meanwhile.
type UnderwayError struct{ State }

func (e UnderwayError) Error() string {
	return fmt.Sprintf("the number of partitions is being changed from %d to %d (%s): `ingester repartition` finishes it", e.From, e.To, e.Phase)
}
