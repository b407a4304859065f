package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits of a directory of policies. They are checked before anything is parsed: Cedar's parser has no limit of depth of its own, and a
// file of some megabytes of brackets would end the process.
const (
	MaxFileBytes  = 64 << 10
	MaxFiles      = 2000
	MaxTotalBytes = 8 << 20
	// MaxLayerPolicies bounds one layer: the cost of a decision grows with it.
	MaxLayerPolicies = 1000
)

// Names of the layers: folders of the directory, and prefixes of policy ids.
const (
	layerGuardrails = "guardrails"
	layerDefault    = "default"
	layerTenants    = "tenants"

	fileSuffix = ".cedar"
)

// file is one file of policies as read.
type file struct {
	path   string
	layer  string    // layerGuardrails, layerDefault or layerTenants
	tenant uuid.UUID // of layerTenants
	text   []byte
}

// prefix is what the ids of the file's policies begin with, so that no tenant's policy can pass for a guardrail.
func (f *file) prefix() string {
	if f.layer == layerTenants {
		return layerTenants + "/" + f.tenant.String() + "/"
	}
	return f.layer + "/"
}

// reader collects the files of one directory.
type reader struct {
	fsys     fs.FS
	files    []file
	bytes    int
	problems []Problem
	full     bool // a limit was reached; nothing more is read
}

func (r *reader) problem(file, what, fix string) {
	r.problems = append(r.problems, Problem{File: file, What: what, Fix: fix})
}

// readFiles reads a directory: *.cedar at its top and under default/ make the default layer, those under guardrails/ and under
// tenants/<uuid>/ the others. Names that begin with a dot are passed over, which takes care of the links of mounted ConfigMaps. Files with
// other endings may lie beside.
func readFiles(fsys fs.FS) ([]file, []Problem) {
	r := &reader{fsys: fsys}
	for _, e := range r.list(".") {
		switch {
		case !e.dir:
			r.read(e.path, layerDefault, uuid.Nil)
		case e.name == layerGuardrails || e.name == layerDefault:
			r.flat(e.path, e.name, uuid.Nil)
		case e.name == layerTenants:
			r.tenants()
		default:
			r.stray(e.path, "a folder that is no layer", "use guardrails/, default/ or tenants/<tenant id>/")
		}
	}
	return r.files, r.problems
}

type entry struct {
	name, path string
	dir        bool
}

// list is the visible entries of a folder, links followed, in the order of their names.
func (r *reader) list(dir string) []entry {
	found, err := fs.ReadDir(r.fsys, dir)
	if err != nil {
		r.problem(dir, "cannot be read: "+cause(err), "check that it is a folder and its permissions")
		return nil
	}
	var out []entry
	for _, d := range found {
		if strings.HasPrefix(d.Name(), ".") {
			continue
		}
		p := path.Join(dir, d.Name())
		info, err := fs.Stat(r.fsys, p)
		if err != nil {
			r.problem(p, "cannot be read: "+cause(err), "")
			continue
		}
		out = append(out, entry{name: d.Name(), path: p, dir: info.IsDir()})
	}
	return out
}

// flat reads the files of one layer.
func (r *reader) flat(dir, layer string, tenant uuid.UUID) {
	for _, e := range r.list(dir) {
		if e.dir {
			r.stray(e.path, "a folder within a layer", "put the files directly into "+dir+"/")
			continue
		}
		r.read(e.path, layer, tenant)
	}
}

func (r *reader) tenants() {
	for _, e := range r.list(layerTenants) {
		id, err := uuid.Parse(e.name)
		switch {
		case !e.dir && strings.HasSuffix(e.name, fileSuffix):
			r.problem(e.path, "a policy of no tenant", "put it into tenants/<tenant id>/")
		case !e.dir:
		case err != nil || id.String() != e.name:
			r.problem(e.path, "the folder's name is no tenant id", "name it by the tenant's UUID, lower case, 8-4-4-4-12")
		default:
			before := len(r.files)
			r.flat(e.path, layerTenants, id)
			if len(r.files) == before && !r.full {
				r.problem(e.path, "the tenant's folder holds no *.cedar file", "remove the folder, so that the default layer holds for the tenant")
			}
		}
	}
}

// stray refuses a folder that would be passed over although policies are in it.
func (r *reader) stray(dir, what, fix string) {
	found := false
	err := fs.WalkDir(r.fsys, dir, func(p string, _ fs.DirEntry, err error) error {
		found = found || err != nil || strings.HasSuffix(p, fileSuffix)
		if found {
			return fs.SkipAll
		}
		return nil
	})
	if found || err != nil {
		r.problem(dir, what, fix)
	}
}

// read takes in one file if it is one of policies.
func (r *reader) read(name, layer string, tenant uuid.UUID) {
	if !strings.HasSuffix(name, fileSuffix) || r.full {
		return
	}
	text, err := readCapped(r.fsys, name)
	if err != nil {
		r.problem(name, err.Error(), "")
		return
	}
	r.bytes += len(text)
	if len(r.files) == MaxFiles || r.bytes > MaxTotalBytes {
		r.full = true
		r.problem(name, fmt.Sprintf("more than %d files or %d bytes of policies", MaxFiles, MaxTotalBytes), "use fewer, and roles instead of policies for single keys")
		return
	}
	r.files = append(r.files, file{path: name, layer: layer, tenant: tenant, text: text})
}

// readCapped reads a regular file of valid text that is not too large.
func readCapped(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %s", cause(err))
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %s", cause(err))
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %s", cause(err))
	case len(text) > MaxFileBytes:
		return nil, fmt.Errorf("is larger than %d bytes; split the file", MaxFileBytes)
	case !utf8.Valid(text):
		return nil, errors.New("is no valid UTF-8")
	}
	return text, nil
}

// cause is the reason of a file error without the path, which the problem names already.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// digest identifies the files by names and contents.
func digest(files []file) string {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.path, b.path) })
	h := sha256.New()
	for _, f := range sorted {
		fmt.Fprintf(h, "%d %s %d ", len(f.path), f.path, len(f.text))
		h.Write(f.text)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
