package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Ensure every setting the code reads is in the page on settings, and every one of the page is read.
func TestSettingsAreDocumented(t *testing.T) {
	pageText, err := os.ReadFile(filepath.Join(root, "docs/settings.md"))
	must(t, err)
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile("`(AUDIT_[A-Z_]+)`").FindAllStringSubmatch(string(pageText), -1) {
		documented[setting(name[1])] = true
	}
	read := map[string]bool{ // by ClickHouse and NATS, from their own configuration
		"AUDIT_CLICKHOUSE_SECRETS":     true,
		"AUDIT_NATS_INGESTER_PASSWORD": true, "AUDIT_NATS_QUERY_PASSWORD": true, "AUDIT_NATS_OPERATOR_PASSWORD": true,
	}
	literal := regexp.MustCompile(`"(AUDIT_[A-Z_]+)"`)
	streams := map[string]bool{"AUDIT_LEDGER": true, "AUDIT_DLQ": true, "AUDIT_CONTROL": true, "AUDIT_BREAK": true} // streams; faults of special builds
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == ".data") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range literal.FindAllStringSubmatch(string(text), -1) {
			read[setting(m[1])] = true
		}
		return err
	}))
	for name := range read {
		if !documented[name] && !streams[name] {
			t.Errorf("docs/settings.md does not have %s", name)
		}
	}
	for name := range documented {
		if !read[name] {
			t.Errorf("docs/settings.md has %s, which nothing reads", name)
		}
	}
	if len(read) < 20 {
		t.Errorf("only %d settings found in the code", len(read))
	}
}

// setting is the name of a setting, whether it is given itself or by a file: any may be.
func setting(name string) string { return strings.TrimSuffix(name, "_FILE") }
