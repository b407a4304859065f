package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ours begins the paths of modules that the LICENSE of this repository covers.
const ours = "example.com/auditlog/"

// sbom describes a program, in CycloneDX, by the modules that its own build information names, each with its licences. It adds those of others to linked.
func (r *release) sbom(ctx context.Context, program string, linked map[module]licence) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.sbomTool, "bin", "-json", "-std", "-noserial", "-notimestamp", "-version", r.version, program)
	// All that was linked is in the module cache. Our own modules are nowhere else to be had.
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	text, err := output(cmd)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("what %s says of %s: %w", r.sbomTool, program, err)
	}
	components, _ := doc["components"].([]any)
	if len(components) == 0 {
		return nil, errors.New("it names no module: was the program built by Go, from modules?")
	}
	var named []module
	for _, c := range components {
		if m := moduleOf(c); !strings.HasPrefix(m.path, ours) {
			named = append(named, m)
		}
	}
	if err := r.licences.find(ctx, named); err != nil {
		return nil, err
	}
	for _, c := range components {
		m := moduleOf(c)
		l, ok := r.licences.of[m]
		if !ok {
			continue // ours
		}
		linked[m] = l
		c.(map[string]any)["licenses"] = l.cycloneDX()
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(doc)
	return out.Bytes(), err
}

func moduleOf(component any) module {
	c, _ := component.(map[string]any)
	path, _ := c["name"].(string)
	version, _ := c["version"].(string)
	return module{path, version}
}

// cycloneDX is the licence as the field "licenses" of a component has it.
func (l licence) cycloneDX() []any {
	all := []any{}
	for _, name := range l.names {
		all = append(all, map[string]any{"license": map[string]any{"id": name}})
	}
	return all
}
