// Package ledger writes down the borders of every batch before it is inserted into the table.
//
// Each partition has one chain of entries, one for each batch, on the subject audit.ledger.<partition>. An entry is appended by
// compare-and-set on the subject's last sequence, so that of two writers who both think they drive a partition one is refused: that,
// and not the membership view, is what makes one writer of a partition. Recovery replays the entries whose commit is not written
// down, verification compares them with stream and table, and the chain of hashes makes later changes of the stream visible.
package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"time"
)

// SchemaVersion is the version of the rules that turn a message into a row or a dead letter. It is raised when the verdict on any message can
// change, so that a replay knows under which rules an entry was counted.
const SchemaVersion = 1

// Digest is a SHA-256 hash; in JSON it is lower-case hexadecimal. The zero value stands before the first entry of a partition.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("digest has %d characters, want %d", len(text), hex.EncodedLen(len(d)))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Block is what one batch holds of one year, and so one part of the table, written whole or not at all.
type Block struct {
	// Year is that of created_at in UTC. Earlier versions wrote a block for each month; of their entries it is 0.
	Year int `json:"year"`
	// Rows is how many messages of the batch became rows of this year; at least 1.
	Rows int `json:"rows"`
	// MinCreated and MaxCreated bound created_at of these rows, in microseconds since 1970.
	MinCreated int64 `json:"min_created"`
	MaxCreated int64 `json:"max_created"`
}

// Entry is one batch of one partition.
type Entry struct {
	Partition int `json:"partition"`
	// Batch counts the entries of the partition from 1, without a gap.
	Batch uint64 `json:"batch"`
	// FirstSeq and LastSeq are the sequences in the stream of its first and last message. The batch is every message of the
	// partition between them; the partition has none between LastSeq of one entry and FirstSeq of the next.
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	// Messages is how many they are, each of them a row or rejected (a dead letter).
	Messages int `json:"messages"`
	Rows     int `json:"rows"`
	Rejected int `json:"rejected"`
	// Blocks are the years of the rows, in order; empty when every message was rejected.
	Blocks []Block `json:"blocks"`
	// Schema is the SchemaVersion the batch was counted under.
	Schema int `json:"schema"`
	// PrevHash is Hash of the entry before (zero for the first); Hash is the Hasher's sum over the batch's messages.
	PrevHash Digest `json:"prev_hash"`
	Hash     Digest `json:"hash"`
	// CommittedThrough is the newest batch that was durably in the table when this entry was written; 0 for none.
	CommittedThrough uint64 `json:"committed_through"`
	// Follows is the sequence, in the ledger's stream, of the entry before; 0 for the first.
	Follows uint64 `json:"follows"`
	// Writer is the instance that wrote it, unique to the process.
	Writer string `json:"writer"`
}

// Record is an entry as it stands in the ledger.
type Record struct {
	Entry
	// Seq is its sequence in the ledger's stream: what the next Append is compared with. 0: the partition has no entry yet.
	Seq uint64 `json:"-"`
	// At is when the ledger's stream took it in.
	At time.Time `json:"-"`
}

func decode(data []byte, seq uint64, at time.Time) (Record, error) {
	r := Record{Seq: seq, At: at}
	if err := json.Unmarshal(data, &r.Entry); err != nil {
		return Record{}, fmt.Errorf("%w: sequence %d: %w", ErrCorrupt, seq, err)
	}
	return r, nil
}

// Hasher computes an entry's Hash: SHA-256 over the previous entry's hash and each message's sequence, time, subject and payload, each
// text with its length before it, so that no two different batches read as the same bytes.
type Hasher struct {
	sum hash.Hash
	buf []byte
}

// NewHasher begins the hash of the entry that follows the one with the hash prev.
func NewHasher(prev Digest) *Hasher {
	h := &Hasher{sum: sha256.New()}
	h.Reset(prev)
	return h
}

// Reset begins anew.
func (h *Hasher) Reset(prev Digest) {
	h.sum.Reset()
	h.sum.Write(prev[:])
}

// Add takes in the next message, with its sequence and timestamp in the stream and the subject it is stored under.
func (h *Hasher) Add(seq uint64, at time.Time, subject string, data []byte) {
	b := h.buf[:0]
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano())) //nolint:gosec // bits, not a number
	b = binary.BigEndian.AppendUint32(b, uint32(len(subject)))  //nolint:gosec // a subject is shorter than 4 GiB
	b = append(b, subject...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data))) //nolint:gosec // a message is shorter than 4 GiB
	h.buf = b
	h.sum.Write(b)
	h.sum.Write(data)
}

// Sum is the hash over what was added.
func (h *Hasher) Sum() (d Digest) {
	h.sum.Sum(d[:0])
	return d
}
