package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// lines reads all of in and describes each line as "number:data", a line that is too long as "number:!".
func lines(t *testing.T, in io.Reader) (list []string, err error) {
	t.Helper()
	r, err := newLineReader(in)
	if err != nil {
		return nil, err
	}
	for {
		l, err := r.next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		text := string(l.data)
		if l.tooLong {
			text = "!"
		}
		if len(text) > 20 {
			text = fmt.Sprintf("%d bytes", len(text))
		}
		list = append(list, fmt.Sprintf("%d:%s", l.number, text))
	}
}

func TestLineReader(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for in, want := range map[string]string{
		"": "", "\n\n": "", "a": "1:a", "a\n": "1:a", "a\nb": "1:a 2:b", "\n a \r\n\nb\r\n": "2:a 4:b",
		long(maxLineBytes-1) + "\nb":   "1:1048575 bytes 2:b",
		long(maxLineBytes) + "\r\nb":   "1:1048576 bytes 2:b",
		long(maxLineBytes+1) + "\nb":   "1:! 2:b",
		"a\n" + long(3*maxLineBytes):   "1:a 2:!",
		long(2*maxLineBytes) + "\n\nb": "1:! 3:b",
	} {
		for name, r := range map[string]io.Reader{"plain": strings.NewReader(in), "gzip": bytes.NewReader(packed(t, in))} {
			got, err := lines(t, r)
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("%s of %d bytes: %q, %v; want %q", name, len(in), got, err, want)
			}
		}
	}
}

func TestLineReaderReportsBrokenInput(t *testing.T) {
	z := packed(t, strings.Repeat("a line\n", 1000))
	if _, err := lines(t, bytes.NewReader(z[:len(z)-4])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("gzip that was cut: %v", err)
	}
	z[len(z)-6] ^= 1
	if _, err := lines(t, bytes.NewReader(z)); !errors.Is(err, gzip.ErrChecksum) {
		t.Errorf("gzip with a wrong checksum: %v", err)
	}
	if _, err := lines(t, bytes.NewReader(z[:5])); err == nil {
		t.Error("gzip that ends in its header is accepted")
	}
	broken := errors.New("broken")
	if got, err := lines(t, io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) || len(got) != 1 {
		t.Errorf("lines %q, error %v", got, err)
	}
}

func packed(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRunRefusesWrongCalls(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	file := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		env    map[string]string
		status int
		out    string
		errOut []string
	}{
		{[]string{"--help"}, nil, exitOK, usage, nil},
		{[]string{"--version"}, nil, exitOK, "publish devel (commit unknown, " + runtime.Version() + ")\n", nil},
		{[]string{"-x"}, nil, exitUsage, "", []string{"usage: publish"}},
		{[]string{"a", "b"}, nil, exitUsage, "", []string{"usage: publish"}},
		{[]string{gone}, nil, exitUsage, "", []string{gone}},
		{nil, map[string]string{"AUDIT_NATS_CREDS": gone, "AUDIT_NATS_CA": gone}, exitUsage, "", []string{"AUDIT_NATS_CREDS: ", "AUDIT_NATS_CA: "}},
		{[]string{file}, map[string]string{"AUDIT_NATS_URL": "nats://127.0.0.1:1"}, exitFailed, "", []string{"connect to NATS (AUDIT_NATS_URL)"}},
	} {
		var out, errOut bytes.Buffer
		status := run(context.Background(), c.args, func(name string) string { return c.env[name] }, strings.NewReader(""), &out, &errOut)
		if status != c.status || out.String() != c.out {
			t.Errorf("%q: status %d, output %q", c.args, status, out.String())
		}
		for _, want := range c.errOut {
			if !strings.Contains(errOut.String(), want) {
				t.Errorf("%q: %q does not say %q", c.args, errOut.String(), want)
			}
		}
	}
}

func TestBarText(t *testing.T) {
	if got, want := barText(500, 25, 100, time.Second), "[=======                       ]  25%  500 events, 500/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := barText(10, 25, 0, 2*time.Second), "10 events, 5/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if isTerminal(&bytes.Buffer{}) {
		t.Error("a buffer is no terminal")
	}
}
