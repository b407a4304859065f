package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// maxLineBytes bounds a line, as the server's max_payload bounds a message. A line beyond it is reported, not held in memory.
const maxLineBytes = 1 << 20

// line is one line that is not blank.
type line struct {
	// number counts from 1.
	number int
	data   []byte
	// tooLong says that the line was longer than maxLineBytes, and that data holds nothing.
	tooLong bool
}

type lineReader struct {
	r      *bufio.Reader
	number int
}

// newLineReader reads plain text or, when it begins with gzip's magic number, what was compressed.
func newLineReader(in io.Reader) (*lineReader, error) {
	const bufferBytes = 256 << 10
	r := bufio.NewReaderSize(in, bufferBytes)
	if magic, err := r.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("open gzip: %w", err)
		}
		r = bufio.NewReaderSize(z, bufferBytes)
	}
	return &lineReader{r: r}, nil
}

// next returns the next line that is not blank, with memory of its own. At the end it returns io.EOF.
func (l *lineReader) next() (line, error) {
	for {
		data, tooLong, err := l.read()
		if err != nil && !errors.Is(err, io.EOF) {
			return line{number: l.number}, err
		}
		last := err != nil
		if !last || len(data) > 0 || tooLong {
			l.number++
		}
		if data = bytes.TrimSpace(data); len(data) > 0 || tooLong {
			return line{number: l.number, data: data, tooLong: tooLong}, nil
		}
		if last {
			return line{number: l.number}, io.EOF
		}
	}
}

// read reads to the end of the line, keeping at most maxLineBytes.
func (l *lineReader) read() (data []byte, tooLong bool, err error) {
	for {
		part, err := l.r.ReadSlice('\n')
		switch {
		case tooLong:
		case len(data)+len(bytes.TrimRight(part, "\r\n")) > maxLineBytes:
			data, tooLong = nil, true
		default:
			data = append(data, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return data, tooLong, err
		}
	}
}

// countingReader counts what has been read, for the progress bar.
type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
