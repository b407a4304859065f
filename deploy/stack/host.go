package stack

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
)

// envEngineHost, when set, turns this process into the host of the engine library it names.
// Private: only startEngine sets it, for the child it starts.
const envEngineHost = "AUDITLOG_ENGINE_HOST"

// init is the one place where a package-level init is worth its price. The engine must live in a
// process of its own (it may abort, and tests kill it), and the only executable we can count on is
// the running one, whatever it is: bin/auditlog, or the test binary of a package that never heard
// of engines. So the stack starts that same executable again with a private variable set, and this
// hook takes over before main, TestMain or any flag parsing could run.
func init() {
	if lib := os.Getenv(envEngineHost); lib != "" {
		os.Exit(hostEngine(lib, os.Args[1:]))
	}
	if spec := os.Getenv(envNATSHost); spec != "" {
		os.Exit(hostNATS(spec))
	}
}

// hostEngine loads the engine library and runs it with the arguments of "clickhouse local" until
// its standard input is closed. It returns the exit status.
func hostEngine(lib string, args []string) int {
	runtime.LockOSThread()
	_ = os.Unsetenv(envEngineHost)
	// The parent stops the child in order; signals of the terminal are not for it. A client that
	// goes away while it is written to must be an error of that write, not the end of the process.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)

	handle, err := purego.Dlopen(lib, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		fmt.Fprintf(os.Stderr, "load the ClickHouse engine %s: %v\n", lib, err)
		return 1
	}
	// The Go runtime owns the signal handlers of this process; the engine's own would replace them.
	var setHandlers func(int32)
	purego.RegisterLibFunc(&setHandlers, handle, "chdb_set_signal_handlers_enabled")
	setHandlers(0)

	var run func(int32, unsafe.Pointer) uintptr
	purego.RegisterLibFunc(&run, handle, "chdb_query_cmdline")
	argv := cStrings(append([]string{"clickhouse"}, args...))
	run(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(argv)
	return 0
}

// cStrings returns a NULL-terminated array of NUL-terminated strings.
func cStrings(args []string) []*byte {
	argv := make([]*byte, 0, len(args)+1)
	for _, arg := range args {
		b := append([]byte(arg), 0)
		argv = append(argv, &b[0])
	}
	return append(argv, nil)
}
