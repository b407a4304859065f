package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is one of an archive; the path has slashes. With a link it is a symbolic link to there.
type file struct {
	path string
	mode int64
	data []byte
	link string
}

// writeArchive writes the files as a tar.gz in which all lie in the folder top. The bytes depend on the arguments alone, path excepted: files are
// in order, belong to nobody, and are of the time at.
func writeArchive(path, top string, files []file, at time.Time) error {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression) // its header has neither name nor time
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	archive := tar.NewWriter(zip)
	for i, f := range files {
		if i > 0 && files[i-1].path == f.path {
			return fmt.Errorf("write %s: %s is there twice", path, f.path)
		}
		head := tar.Header{Typeflag: tar.TypeReg, Name: top + "/" + f.path, Mode: f.mode, Size: int64(len(f.data)), ModTime: at, Format: tar.FormatPAX}
		if f.link != "" {
			head.Typeflag, head.Linkname = tar.TypeSymlink, f.link
		}
		if err := archive.WriteHeader(&head); err != nil {
			return fmt.Errorf("write %s: %s: %w", path, f.path, err)
		}
		if _, err := archive.Write(f.data); err != nil {
			return fmt.Errorf("write %s: %s: %w", path, f.path, err)
		}
	}
	for _, w := range []io.Closer{archive, zip} {
		if err := w.Close(); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return os.WriteFile(path, out.Bytes(), 0o644) //nolint:gosec // an archive is for all to read
}

// writeSums writes the SHA-256 of the files, which lie beside it, in the form of sha256sum -c.
func writeSums(path string, files []string) error {
	var sums strings.Builder
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), filepath.Base(name))
	}
	return os.WriteFile(path, []byte(sums.String()), 0o644) //nolint:gosec // checksums are for all to read
}
