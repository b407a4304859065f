package stack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

const host = "127.0.0.1"

// Free ports are picked below the range from which operating systems serve outgoing connections
// (32768 and up on Linux), so that a port stays ours while a server of the stack is down.
const (
	lowestPort  = 15000
	highestPort = 32000
)

// PortError says that a port of the stack is taken.
type PortError struct {
	Port     int    // the TCP port on 127.0.0.1
	For      string // what wanted it
	Variable string // the environment variable that changes it
	Err      error  // what the operating system said
}

func (e *PortError) Error() string {
	if errors.Is(e.Err, syscall.EADDRINUSE) {
		return fmt.Sprintf("port %d for %s is in use by another program: stop it, or set %s to a free port", e.Port, e.For, e.Variable)
	}
	return fmt.Sprintf("port %d for %s: %v: set %s to another port", e.Port, e.For, e.Err, e.Variable)
}

func (e *PortError) Unwrap() error { return e.Err }

// choosePorts checks the wished ports before anything starts, and picks the others.
func choosePorts(o *Options) error {
	var errs []error
	taken := map[int]string{}
	for _, p := range []struct {
		port             *int
		wanted, variable string
	}{
		{&o.NATSPort, "NATS", EnvNATSPort},
		{&o.ClickHousePort, "ClickHouse", EnvClickHousePort},
		{&o.ClickHouseHTTPPort, "ClickHouse over HTTP", EnvClickHouseHTTPPort},
	} {
		err := choosePort(p.port, p.wanted, p.variable, taken)
		errs = append(errs, err)
		taken[*p.port] = p.wanted
	}
	return errors.Join(errs...)
}

func choosePort(port *int, wanted, variable string, taken map[int]string) error {
	if *port != 0 {
		if other, ok := taken[*port]; ok {
			return &PortError{Port: *port, For: wanted, Variable: variable, Err: fmt.Errorf("it is the port for %s too", other)}
		}
		return checkPort(*port, wanted, variable)
	}
	for {
		free, err := freePort()
		if err != nil {
			return err
		}
		if _, ok := taken[free]; !ok {
			*port = free
			return nil
		}
	}
}

// checkPort reports whether port can be listened on.
func checkPort(port int, wanted, variable string) error {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return &PortError{Port: port, For: wanted, Variable: variable, Err: err}
	}
	return l.Close()
}

// freePort picks a port nobody listens on.
func freePort() (int, error) {
	var last error
	for range 100 {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if last = checkPort(port, "", ""); last == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port between %d and %d: %w", lowestPort, highestPort, last)
}

func address(port int) string {
	return net.JoinHostPort(host, strconv.Itoa(port))
}
