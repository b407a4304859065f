package clickhouse

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/ClickHouse/ch-go/proto"
)

// textColumn is a String column kept as it goes over the wire: each value behind its length. So a value is copied once, from the message, and the
// block is sent from this memory as it is. The memory is chunks that all blocks share: a column takes what it needs, and never moves.
type textColumn struct {
	chunks []*chunk // all but the last are full
	rows   int
	bytes  int
}

var _ proto.ColInput = (*textColumn)(nil)

// chunk is some values, each whole.
type chunk struct{ wire []byte }

// chunkBytes is the size of a chunk, unless it holds one larger value.
const chunkBytes = 32 << 10

var chunks = sync.Pool{New: func() any { return &chunk{wire: make([]byte, 0, chunkBytes)} }}

func (c *textColumn) append(v []byte) {
	k := c.room(len(v) + binary.MaxVarintLen64)
	before := len(k.wire)
	k.wire = binary.AppendUvarint(k.wire, uint64(len(v)))
	k.wire = append(k.wire, v...)
	c.bytes += len(k.wire) - before
	c.rows++
}

// room returns a chunk that n more bytes fit into.
func (c *textColumn) room(n int) *chunk {
	if last := len(c.chunks) - 1; last >= 0 && cap(c.chunks[last].wire)-len(c.chunks[last].wire) >= n {
		return c.chunks[last]
	}
	var k *chunk
	if n > chunkBytes {
		k = &chunk{wire: make([]byte, 0, n)}
	} else {
		k = chunks.Get().(*chunk) //nolint:forcetypeassert // New makes nothing else
	}
	c.chunks = append(c.chunks, k)
	return k
}

// retain takes out the values of the rows that are not kept.
func (c *textColumn) retain(kept []bool) {
	row := 0
	c.rows, c.bytes = 0, 0
	for _, k := range c.chunks {
		out, rest := k.wire[:0], k.wire
		for len(rest) > 0 {
			n, head := binary.Uvarint(rest)
			end := head + int(n) //nolint:gosec // the length of a slice
			if kept[row] {
				out = append(out, rest[:end]...)
				c.rows++
			}
			rest = rest[end:]
			row++
		}
		k.wire = out
		c.bytes += len(out)
	}
}

func (c *textColumn) reset() {
	for i, k := range c.chunks {
		if cap(k.wire) == chunkBytes {
			k.wire = k.wire[:0]
			chunks.Put(k)
		}
		c.chunks[i] = nil
	}
	c.chunks, c.rows, c.bytes = c.chunks[:0], 0, 0
}

func (c *textColumn) Type() proto.ColumnType { return proto.ColumnTypeString }

func (c *textColumn) Rows() int { return c.rows }

func (c *textColumn) EncodeColumn(b *proto.Buffer) {
	for _, k := range c.chunks {
		b.PutRaw(k.wire)
	}
}

func (c *textColumn) WriteColumn(w *proto.Writer) {
	for _, k := range c.chunks {
		w.ChainWrite(k.wire)
	}
}

// nullableText is a Nullable(String) column.
type nullableText struct {
	nulls  []byte // one for each row: 1 is NULL
	values textColumn
}

var _ proto.ColInput = (*nullableText)(nil)

func (c *nullableText) append(v []byte, set bool) {
	if !set {
		c.nulls = append(c.nulls, 1)
		c.values.append(nil)
		return
	}
	c.nulls = append(c.nulls, 0)
	c.values.append(v)
}

func (c *nullableText) reset() {
	c.nulls = c.nulls[:0]
	c.values.reset()
}

func (c *nullableText) Type() proto.ColumnType {
	return proto.ColumnTypeNullable.Sub(proto.ColumnTypeString)
}

func (c *nullableText) Rows() int { return len(c.nulls) }

func (c *nullableText) EncodeColumn(b *proto.Buffer) {
	b.PutRaw(c.nulls)
	c.values.EncodeColumn(b)
}

func (c *nullableText) WriteColumn(w *proto.Writer) {
	w.ChainWrite(c.nulls)
	c.values.WriteColumn(w)
}

// Of the native format of LowCardinality: the version of its keys, and the flags of a block that brings its whole dictionary.
const (
	lowCardinalityKeysVersion = 1
	lowCardinalityAdditional  = 1 << 9
	lowCardinalityUpdate      = 1 << 10
)

// labelColumn is a LowCardinality(String) column: a dictionary and one index into it for each row.
type labelColumn struct {
	index map[string]uint32
	dict  textColumn
	keys  []uint32
	// last and lastKey are the value before: neighbours are often equal.
	last    []byte
	lastKey uint32
}

var _ proto.ColInput = (*labelColumn)(nil)

func (c *labelColumn) append(v []byte) {
	if len(c.keys) == 0 || string(v) != string(c.last) {
		c.lastKey = c.key(v)
		c.last = append(c.last[:0], v...)
	}
	c.keys = append(c.keys, c.lastKey)
}

// key is the place of v in the dictionary, where it is put when it is new.
func (c *labelColumn) key(v []byte) uint32 {
	if k, ok := c.index[string(v)]; ok {
		return k
	}
	if c.index == nil {
		c.index = make(map[string]uint32)
	}
	k := uint32(c.dict.rows)
	c.index[string(v)] = k
	c.dict.append(v)
	return k
}

func (c *labelColumn) reset() {
	clear(c.index)
	c.dict.reset()
	c.keys = c.keys[:0]
}

func (c *labelColumn) Type() proto.ColumnType {
	return proto.ColumnTypeLowCardinality.Sub(proto.ColumnTypeString)
}

func (c *labelColumn) Rows() int { return len(c.keys) }

// EncodeState writes what stands before the column.
func (c *labelColumn) EncodeState(b *proto.Buffer) { b.PutInt64(lowCardinalityKeysVersion) }

func (c *labelColumn) EncodeColumn(b *proto.Buffer) {
	c.encodeDictionaryHead(b)
	c.dict.EncodeColumn(b)
	c.encodeKeys(b)
}

func (c *labelColumn) WriteColumn(w *proto.Writer) {
	w.ChainBuffer(c.encodeDictionaryHead)
	c.dict.WriteColumn(w)
	w.ChainBuffer(c.encodeKeys)
}

func (c *labelColumn) encodeDictionaryHead(b *proto.Buffer) {
	b.PutInt64(lowCardinalityAdditional | lowCardinalityUpdate | int64(c.width()))
	b.PutInt64(int64(c.dict.rows))
}

// width is the narrowest type that holds every key.
func (c *labelColumn) width() proto.CardinalityKey {
	switch {
	case c.dict.rows <= 1<<8:
		return proto.KeyUInt8
	case c.dict.rows <= 1<<16:
		return proto.KeyUInt16
	}
	return proto.KeyUInt32
}

func (c *labelColumn) encodeKeys(b *proto.Buffer) {
	b.PutInt64(int64(len(c.keys)))
	switch c.width() {
	case proto.KeyUInt8:
		for _, k := range c.keys {
			b.Buf = append(b.Buf, byte(k))
		}
	case proto.KeyUInt16:
		for _, k := range c.keys {
			b.Buf = binary.LittleEndian.AppendUint16(b.Buf, uint16(k))
		}
	default:
		for _, k := range c.keys {
			b.Buf = binary.LittleEndian.AppendUint32(b.Buf, k)
		}
	}
}

// tripwire is a column that notes when it is encoded. Before that moment no row has left this process, whatever went wrong.
type tripwire struct {
	proto.ColInput
	sent *atomic.Bool
}

// Prepare is called by ch-go just before it encodes the column, after the server has answered the INSERT with the table's columns.
func (t tripwire) Prepare() error {
	t.sent.Store(true)
	return nil
}
