package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Modes: what is in a backup is whose the log is, and nobody else's.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// partSuffix ends the name of a folder that is being written.
const partSuffix = ".part"

// folder is a backup that is being written, under another name until it is whole.
type folder struct{ final, part string }

// create makes the folder for a backup that is to be dir, which must not be there.
func create(dir string) (*folder, error) {
	f := &folder{final: filepath.Clean(dir), part: filepath.Clean(dir) + partSuffix}
	if _, err := os.Lstat(f.final); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("back up to %s: it is there already: name a new folder", f.final)
	}
	if err := os.MkdirAll(filepath.Dir(f.part), dirMode); err != nil {
		return nil, fmt.Errorf("back up to %s: %w", f.final, err)
	}
	if err := os.Mkdir(f.part, dirMode); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("back up to %s: %s is there: another backup is writing it, or was interrupted: then remove it", f.final, f.part)
	} else if err != nil {
		return nil, fmt.Errorf("back up to %s: %w", f.final, err)
	}
	return f, nil
}

// write makes a file of what fill writes, flushed to the disk.
func (f *folder) write(path string, fill func(io.Writer) error) (File, error) {
	full := filepath.Join(f.part, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(full), dirMode); err != nil {
		return File{}, err
	}
	file, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = file.Close() }() // closed below unless something failed
	hash := sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(file, hash), 1<<20)
	if err := fill(buf); err != nil {
		return File{}, err
	}
	if err := errors.Join(buf.Flush(), file.Sync()); err != nil {
		return File{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return File{}, err
	}
	return File{Path: path, Bytes: info.Size(), SHA256: hex.EncodeToString(hash.Sum(nil))}, file.Close()
}

// remove takes files out again.
func (f *folder) remove(files ...File) (err error) {
	for _, file := range files {
		err = errors.Join(err, os.Remove(filepath.Join(f.part, filepath.FromSlash(file.Path))))
	}
	return err
}

// finish writes the manifest and gives the folder its name.
func (f *folder) finish(m *Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	dirs := map[string]bool{f.part: true}
	for _, file := range m.files() {
		for dir := filepath.Dir(filepath.FromSlash(file.Path)); dir != "."; dir = filepath.Dir(dir) {
			dirs[filepath.Join(f.part, dir)] = true
		}
	}
	// Every name is on the disk before the manifest says that it is.
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	if _, err := f.write(manifestFile, func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err }); err != nil {
		return err
	}
	if err := syncDir(f.part); err != nil {
		return err
	}
	if err := os.Rename(f.part, f.final); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.final))
}

// abandon removes what was written.
func (f *folder) abandon() error { return os.RemoveAll(f.part) }

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// sum reads a file for its size and hash.
func sum(path string) (File, error) {
	file, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	n, err := io.Copy(hash, file)
	if err != nil {
		return File{}, err
	}
	return File{Bytes: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
}
