package clickhouse

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/ClickHouse/ch-go/proto"
)

// textColumn is a String column kept as it goes over the wire: each value behind its length. So a value is copied once, from the message, and the
// block is sent from this memory as it is.
type textColumn struct {
	wire []byte
	rows int
}

var _ proto.ColInput = (*textColumn)(nil)

func (c *textColumn) append(v []byte) {
	c.wire = binary.AppendUvarint(c.wire, uint64(len(v)))
	c.wire = append(c.wire, v...)
	c.rows++
}

// retain moves the values of the rows that are kept together.
func (c *textColumn) retain(kept []bool) {
	out, rest := c.wire[:0], c.wire
	c.rows = 0
	for _, keep := range kept {
		n, head := binary.Uvarint(rest)
		end := head + int(n) //nolint:gosec // the length of a slice
		if keep {
			out = append(out, rest[:end]...)
			c.rows++
		}
		rest = rest[end:]
	}
	c.wire = out
}

func (c *textColumn) reset() { c.wire, c.rows = c.wire[:0], 0 }

func (c *textColumn) Type() proto.ColumnType { return proto.ColumnTypeString }

func (c *textColumn) Rows() int { return c.rows }

func (c *textColumn) EncodeColumn(b *proto.Buffer) { b.PutRaw(c.wire) }

func (c *textColumn) WriteColumn(w *proto.Writer) { w.ChainWrite(c.wire) }

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
