package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// permitted are the licences that what we link may have. They ask that their text is passed on; MPL-2.0 besides that changed files of the module are
// given on, of which there are none: the module's path and version say where it is to be had.
var permitted = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0"}

// byHand are licence files that the classifier does not know and a person has read, by the SHA-256 of their text: another text has to be read again.
var byHand = map[string]string{
	"cca993712df289a5958bdef69031a5dac0f951ac15afeb313f9eeea55ed59443": "MIT-0", // github.com/segmentio/asm
}

// module is one that a program has linked.
type module struct{ path, version string }

func (m module) String() string { return m.path + "@" + m.version }

// licence is what a module says of its use.
type licence struct {
	names []string // SPDX, those whose texts were recognized
	files []file   // licences, notices and patents as they come, by path
}

// licences finds and keeps the licences of modules.
type licences struct {
	of       map[module]licence
	classify func() (*classifier.Classifier, error)
}

func newLicences() *licences {
	return &licences{of: map[module]licence{}, classify: sync.OnceValues(assets.DefaultClassifier)}
}

// find reads the licences of modules that were not seen before.
func (l *licences) find(ctx context.Context, modules []module) error {
	modules = slices.DeleteFunc(slices.Clone(modules), func(m module) bool { _, ok := l.of[m]; return ok })
	dirs, err := sources(ctx, modules)
	if err != nil {
		return err
	}
	for _, m := range modules {
		if l.of[m], err = l.read(m, dirs[m]); err != nil {
			return fmt.Errorf("licence of %s: %w", m, err)
		}
	}
	return nil
}

// standard is how an SBOM names Go's own library.
const standard = "std"

// licenceFile are the names under which licences and what must be passed on with them are known.
var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|notice|patents|copyright)([-._].*)?$`)

// read reads the licence files of a module. Those of Go's own library lie at the top of its folder.
func (l *licences) read(m module, dir string) (found licence, err error) {
	known, err := l.classify()
	if err != nil {
		return found, err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != dir && (m.path == standard || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !licenceFile.MatchString(d.Name()) || filepath.Ext(path) == ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found.files = append(found.files, file{path: filepath.ToSlash(name), data: text})
		found.names = append(found.names, names(known, text)...)
		return err
	})
	slices.Sort(found.names)
	found.names = slices.Compact(found.names)
	return found, err
}

// names are the SPDX names of the licences in a text.
func names(known *classifier.Classifier, text []byte) (all []string) {
	if name, ok := byHand[fmt.Sprintf("%x", sha256.Sum256(text))]; ok {
		return []string{name}
	}
	for _, match := range known.Match(text).Matches {
		if match.MatchType == "License" {
			all = append(all, match.Name)
		}
	}
	return all
}

// sources says where the sources of modules lie, and fetches those that are not here.
func sources(ctx context.Context, modules []module) (map[module]string, error) {
	dirs := map[module]string{}
	args := []string{"mod", "download", "-json"}
	for _, m := range modules {
		if m.path != standard {
			args = append(args, m.String())
			continue
		}
		root, err := output(exec.CommandContext(ctx, "go", "env", "GOROOT"))
		if err != nil {
			return nil, err
		}
		dirs[m] = strings.TrimSpace(string(root))
	}
	if len(args) == 3 {
		return dirs, nil
	}
	out, err := output(exec.CommandContext(ctx, "go", args...))
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var at struct{ Path, Version, Dir string }
		if err := dec.Decode(&at); err != nil {
			return nil, fmt.Errorf("read the answer of go mod download: %w", err)
		}
		dirs[module{at.Path, at.Version}] = at.Dir
	}
	return dirs, nil
}

// check refuses what has no licence that is recognized, or one that is not permitted.
func check(linked map[module]licence) error {
	var faults []error
	for _, m := range inOrder(linked) {
		if len(linked[m].names) == 0 {
			faults = append(faults, fmt.Errorf("%s: no licence is recognized in its %d licence files", m, len(linked[m].files)))
		}
		for _, name := range linked[m].names {
			if !slices.Contains(permitted, name) {
				faults = append(faults, fmt.Errorf("%s: its licence %s is not one of %v", m, name, permitted))
			}
		}
	}
	return errors.Join(faults...)
}

func inOrder(linked map[module]licence) []module {
	return slices.SortedFunc(maps.Keys(linked), func(a, b module) int { return strings.Compare(a.String(), b.String()) })
}

// table has a line for each module.
func table(linked map[module]licence) string {
	var out strings.Builder
	for _, m := range inOrder(linked) {
		fmt.Fprintf(&out, "%-30s %s\n", strings.Join(linked[m].names, ", "), m)
	}
	return out.String()
}

// thirdParty is the table, and then the text of every licence and notice. One that several have word by word is there once.
func thirdParty(linked map[module]licence) []byte {
	var out bytes.Buffer
	out.WriteString("What others have made and the programs have linked in, and under which licence. The texts follow.\n\n" + table(linked))
	first := map[[sha256.Size]byte]string{}
	for _, m := range inOrder(linked) {
		for _, f := range linked[m].files {
			name := m.String() + " " + f.path
			fmt.Fprintf(&out, "\n%s\n%s\n", strings.Repeat("=", 100), name)
			if same, ok := first[sha256.Sum256(f.data)]; ok {
				fmt.Fprintf(&out, "the text of %s\n", same)
				continue
			}
			first[sha256.Sum256(f.data)] = name
			fmt.Fprintf(&out, "\n%s\n", bytes.TrimRight(f.data, "\n"))
		}
	}
	return out.Bytes()
}
