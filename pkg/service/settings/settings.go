// Package settings reads a service's configuration from environment variables and reports every fault at once, by name.
//
// Any setting may come from a file instead: NAME_FILE holds its path, as container platforms mount secrets.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Reader reads settings and collects what is wrong with them. The zero value is not usable; see New.
type Reader struct {
	getenv func(string) string
	faults []error
}

// New reads from getenv, in production os.Getenv. An empty value counts as absent.
func New(getenv func(string) string) *Reader { return &Reader{getenv: getenv} }

// Err is nil, or every fault found so far joined, one per line, each beginning with the variable's name.
func (r *Reader) Err() error { return errors.Join(r.faults...) }

// fileSuffix makes of a setting's name that of the variable with the path of a file that holds its value.
const fileSuffix = "_FILE"

// maxFile bounds the file of one setting, in bytes.
const maxFile = 64 << 10

// text is the value of name, from the environment or from the file that NAME_FILE says, without the line break at its end. The value never enters
// an error: it may be a secret.
func (r *Reader) text(name string) string {
	v, path := r.getenv(name), r.getenv(name+fileSuffix)
	if path == "" {
		return v
	}
	if v != "" {
		r.Faultf(name, "is set, and so is %s: set one of them", name+fileSuffix)
		return v
	}
	content, err := os.ReadFile(path)
	switch {
	case err != nil:
		r.Faultf(name+fileSuffix, "%v", err)
	case len(content) > maxFile:
		r.Faultf(name+fileSuffix, "%s is larger than %d bytes", path, maxFile)
	default:
		v = strings.TrimRight(string(content), "\r\n")
		if v == "" {
			r.Faultf(name+fileSuffix, "%s is empty", path)
		}
	}
	return v
}

// Faultf records a fault of the variable name, for rules that hold between several of them.
func (r *Reader) Faultf(name, format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

// String is the text of name, or fallback.
func (r *Reader) String(name, fallback string) string {
	if v := r.text(name); v != "" {
		return v
	}
	return fallback
}

// Int is a whole number from min to max.
func (r *Reader) Int(name string, fallback, min, max int) int {
	v := r.text(name)
	if v == "" {
		return fallback
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < min || n > max {
		r.Faultf(name, "%q must be a whole number from %d to %d", v, min, max)
		return fallback
	}
	return n
}

// Float is a number from min to max.
func (r *Reader) Float(name string, fallback, min, max float64) float64 {
	v := r.text(name)
	if v == "" {
		return fallback
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n >= min && n <= max) {
		r.Faultf(name, "%q must be a number from %g to %g", v, min, max)
		return fallback
	}
	return n
}

// Bool is true or false, as strconv.ParseBool reads it.
func (r *Reader) Bool(name string, fallback bool) bool {
	v := r.text(name)
	if v == "" {
		return fallback
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.Faultf(name, "%q must be true or false", v)
		return fallback
	}
	return b
}

// Duration is a Go duration such as 250ms or 1h30m, from min to max.
func (r *Reader) Duration(name string, fallback, min, max time.Duration) time.Duration {
	v := r.text(name)
	if v == "" {
		return fallback
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < min || d > max {
		r.Faultf(name, "%q must be a duration from %s to %s, such as %s", v, min, max, fallback)
		return fallback
	}
	return d
}

// Addr is a host:port to listen on.
func (r *Reader) Addr(name, fallback string) string {
	v := r.String(name, fallback)
	host, port, err := net.SplitHostPort(v)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > 65535 {
		r.Faultf(name, "%q must be host:port, such as %s", v, fallback)
	}
	_ = host // an empty host listens everywhere, which is for the operator to say
	return v
}

// URL is an absolute URL with one of the schemes. Its text never enters an error: it may hold a password.
func (r *Reader) URL(name, fallback string, schemes ...string) string {
	v := r.String(name, fallback)
	u, err := url.Parse(v)
	if err == nil && u.Host != "" {
		for _, s := range schemes {
			if u.Scheme == s {
				return v
			}
		}
	}
	r.Faultf(name, "must be a URL with a host and one of the schemes %v", schemes)
	return v
}

// File is the path of a file or directory that must exist, or empty.
func (r *Reader) File(name string) string {
	v := r.text(name)
	if v == "" {
		return ""
	}
	if _, err := os.Stat(v); err != nil {
		r.Faultf(name, "%v", err)
	}
	return v
}

// LogLevel is AUDIT_LOG_LEVEL: debug, info, warn or error.
func (r *Reader) LogLevel() slog.Level {
	v := r.String("AUDIT_LOG_LEVEL", "info")
	var l slog.Level
	if err := l.UnmarshalText([]byte(v)); err != nil {
		r.Faultf("AUDIT_LOG_LEVEL", "%q must be debug, info, warn or error", v)
	}
	return l
}
