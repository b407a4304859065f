package main

import (
	"runtime"
	"runtime/debug"
)

// Set by the linker: -X main.version=v1.2.3, likewise commit.
var version, commit string

// buildVersion is what the linker was told, else what the module system knows: the release, the commit and the compiler, on one line.
func buildVersion() string {
	v, c := version, commit
	if build, ok := debug.ReadBuildInfo(); ok {
		if main := build.Main.Version; v == "" && main != "(devel)" {
			v = main
		}
		for _, s := range build.Settings {
			if c == "" && s.Key == "vcs.revision" {
				c = s.Value
			}
		}
	}
	if v == "" {
		v = "devel"
	}
	if c == "" {
		c = "unknown"
	}
	return v + " (commit " + c + ", " + runtime.Version() + ")"
}
