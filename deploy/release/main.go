// Command release packs what `make release` has built for each system into one archive: the four programs, an SBOM for each, the licences of all
// that is linked into them, and the files and pages of the repository that one who runs the system needs. The same commit gives the same bytes.
//
// It is a module of its own, outside the workspace, so that no program of ours depends on what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// shipped are the paths of the repository that go into each archive, as far as Git knows them: a password that lies beside is none of them.
var shipped = []string{
	"LICENSE", "README.md", "CHANGELOG.md", "docs",
	"deploy/clickhouse", "deploy/nats", "deploy/observability", "deploy/helm", "deploy/cluster", "deploy/secrets.sh",
}

// programs are what every build has, and no more.
var programs = []string{"auditlog", "ingester", "publish", "query"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	r := release{licences: newLicences()}
	var epoch int64
	list := flag.String("list", "", "only list the licences of what is linked into the programs in this folder")
	flag.StringVar(&r.root, "root", "../..", "top of the repository")
	flag.StringVar(&r.out, "out", "../../dist", "folder for archives and checksums; its folder build has one folder OS_ARCH for each system")
	flag.StringVar(&r.version, "version", "", "version, part of the archives' names")
	flag.Int64Var(&epoch, "epoch", 0, "time of all files in the archives, in seconds since 1970: the commit's")
	flag.StringVar(&r.sbomTool, "sbom-tool", "cyclonedx-gomod", "path of cyclonedx-gomod")
	flag.Parse()
	r.at = time.Unix(epoch, 0).UTC()
	if *list != "" {
		return r.list(ctx, *list)
	}
	if r.version == "" || strings.ContainsAny(r.version, "/\\ ") {
		return fmt.Errorf("-version %q: it is needed, and part of a file's name", r.version)
	}
	return r.pack(ctx)
}

type release struct {
	root, out, version, sbomTool string
	at                           time.Time
	licences                     *licences
}

// pack writes an archive for each build, and the checksums of all.
func (r *release) pack(ctx context.Context) error {
	systems, err := filepath.Glob(filepath.Join(r.out, "build", "*_*"))
	if err != nil || len(systems) == 0 {
		return errors.Join(err, fmt.Errorf("no builds in %s: run `make release`", filepath.Join(r.out, "build")))
	}
	common, err := r.repositoryFiles(ctx)
	if err != nil {
		return err
	}
	var archives []string
	for _, dir := range systems { // Glob sorts
		name := "auditlog_" + strings.TrimPrefix(r.version, "v") + "_" + filepath.Base(dir)
		files, err := r.built(ctx, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		path := filepath.Join(r.out, name+".tar.gz")
		if err := writeArchive(path, name, append(files, common...), r.at); err != nil {
			return err
		}
		fmt.Println(path)
		archives = append(archives, path)
	}
	return writeSums(filepath.Join(r.out, "SHA256SUMS"), archives)
}

// built are the files that one system has alone: programs, SBOMs, licences.
func (r *release) built(ctx context.Context, dir string) (files []file, err error) {
	linked := map[module]licence{}
	for _, program := range programs {
		binary, err := os.ReadFile(filepath.Join(dir, program))
		if err != nil {
			return nil, err
		}
		sbom, err := r.sbom(ctx, filepath.Join(dir, program), linked)
		if err != nil {
			return nil, fmt.Errorf("SBOM of %s: %w", program, err)
		}
		files = append(files, file{path: "bin/" + program, mode: 0o755, data: binary}, file{path: "sbom/" + program + ".cdx.json", mode: 0o644, data: sbom})
	}
	if err := check(linked); err != nil {
		return nil, err
	}
	return append(files, file{path: "THIRD_PARTY_LICENCES.txt", mode: 0o644, data: thirdParty(linked)}), nil
}

// list prints the licences, and fails as a release would.
func (r *release) list(ctx context.Context, dir string) error {
	linked := map[module]licence{}
	for _, program := range programs {
		if _, err := r.sbom(ctx, filepath.Join(dir, program), linked); err != nil {
			return fmt.Errorf("SBOM of %s: %w", program, err)
		}
	}
	fmt.Print(table(linked))
	return check(linked)
}

// repositoryFiles are those of shipped.
func (r *release) repositoryFiles(ctx context.Context) (files []file, err error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"ls-files", "-z", "--"}, shipped...)...)
	cmd.Dir = r.root
	out, err := output(cmd)
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		f := file{path: name, mode: 0o644}
		if strings.HasSuffix(name, ".sh") {
			f.mode = 0o755
		}
		path := filepath.Join(r.root, name)
		if f.link, err = os.Readlink(path); err != nil { // no link
			if f.data, err = os.ReadFile(path); err != nil {
				return nil, err
			}
		}
		files = append(files, f)
	}
	return files, nil
}

// output runs a command. The error has what it said.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:min(3, len(cmd.Args))], " "), err, stderr.String())
	}
	return out, nil
}
