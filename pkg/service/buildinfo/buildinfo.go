// Package buildinfo says which version of the programs this is.
package buildinfo

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// Set by the linker: -X example.com/auditlog/pkg/service/buildinfo.version=v1.2.3, likewise commit. Git is not asked by the
// compiler, so that the same source gives the same bytes with and without its history.
var version, commit string

// Info is what is known about the build.
type Info struct {
	// Version is the release, or "devel".
	Version string
	// Commit is the hash the source was at, or "unknown".
	Commit string
}

// Get returns what the linker was told, else what the module system knows.
func Get() Info {
	i := Info{Version: version, Commit: commit}
	if build, ok := debug.ReadBuildInfo(); ok {
		if v := build.Main.Version; i.Version == "" && v != "(devel)" {
			i.Version = v
		}
		for _, s := range build.Settings {
			if i.Commit == "" && s.Key == "vcs.revision" {
				i.Commit = s.Value
			}
		}
	}
	if i.Version == "" {
		i.Version = "devel"
	}
	if i.Commit == "" {
		i.Commit = "unknown"
	}
	return i
}

// String is the version, the commit and the compiler, on one line.
func (i Info) String() string {
	return i.Version + " (commit " + i.Commit + ", " + runtime.Version() + ")"
}

// Collector is the metric audit_build_info: 1, with the build as labels.
func Collector() prometheus.Collector {
	i := Get()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audit_build_info", Help: "1, with the version, commit and compiler of this program as labels.",
		ConstLabels: prometheus.Labels{"version": i.Version, "commit": i.Commit, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}
