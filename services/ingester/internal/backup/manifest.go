package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// format is the version of the manifest and of the files it names.
const format = 1

const (
	manifestFile = "manifest.json"
	tableFile    = "clickhouse/database.tar"
	// streamFolder holds a folder for each stream, in the form of `nats stream backup`.
	streamFolder = "nats"
	metaFile     = "backup.json"
	dataFile     = "stream.arc.s2"
)

// Manifest says what a backup is. It is written last: a folder without one is no backup.
type Manifest struct {
	Format int `json:"format"`
	// Program is the version of the ingester that wrote it.
	Program string `json:"program"`
	// BeganAt and DoneAt are by the clock of the machine that wrote it. What was acknowledged before BeganAt is in it.
	BeganAt time.Time `json:"began_at"`
	DoneAt  time.Time `json:"done_at"`
	// Partitions is AUDIT_PARTITIONS, Shard AUDIT_SHARD.
	Partitions int    `json:"partitions"`
	Shard      string `json:"shard"`
	Table      Table  `json:"table"`
	// Streams are in no order; none in a backup of a shard's table alone.
	Streams []Stream `json:"streams"`
}

// Table is the backup of ClickHouse's database.
type Table struct {
	// Server is ClickHouse's version, Schema that of the tables.
	Server string `json:"server"`
	Schema uint32 `json:"schema"`
	File   File   `json:"file"`
}

// Stream is the copy of one stream, with its state when the copy was begun.
type Stream struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Meta     File   `json:"meta"`
	Data     File   `json:"data"`
}

// File is a file of the backup; Path is below its folder, with slashes.
type File struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// files are all that it names.
func (m *Manifest) files() []File {
	files := []File{m.Table.File}
	for _, s := range m.Streams {
		files = append(files, s.Meta, s.Data)
	}
	return files
}

// Bytes is how much it takes.
func (m *Manifest) Bytes() (n int64) {
	for _, f := range m.files() {
		n += f.Bytes
	}
	return n
}

// ErrNoBackup means that a folder holds no backup, or one that is not whole.
var ErrNoBackup = errors.New("no backup")

// Read reads the manifest of the backup in dir and checks that every file is there and unchanged. It reads all of them.
func Read(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s: it is none, or one that was interrupted", ErrNoBackup, dir, manifestFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %s of %s cannot be read: %w", ErrNoBackup, manifestFile, dir, err)
	}
	if m.Format != format {
		return nil, fmt.Errorf("%w: %s is of format %d, this program knows %d: use the program that wrote it, %s", ErrNoBackup, dir, m.Format, format, m.Program)
	}
	for _, f := range m.files() {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return nil, fmt.Errorf("%w: %s names the file %q, which is not in it", ErrNoBackup, dir, f.Path)
		}
		have, err := sum(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, fmt.Errorf("%w: %s is not whole: %w", ErrNoBackup, dir, err)
		}
		if have.Bytes != f.Bytes || have.SHA256 != f.SHA256 {
			return nil, fmt.Errorf("%w: %s of %s is not as it was written: %d bytes, SHA-256 %s, not %d, %s",
				ErrNoBackup, f.Path, dir, have.Bytes, have.SHA256, f.Bytes, f.SHA256)
		}
	}
	return &m, nil
}
