package natsconn

import (
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
)

// dialTimeout bounds connecting to one server; it is nats.go's own default.
const dialTimeout = 2 * time.Second

// WithoutHeaders makes a connection that is sent no message headers: nats.go parses those of each message into a map, which takes a quarter of the CPU
// of reading a stream of small messages. Messages that are nothing but headers, as a consumer's answers that it has none, arrive empty.
//
// In the protocol a client says in its CONNECT whether it knows headers. nats.go does if the server's INFO says that the server does, and has no option
// for it, so this connection reads an INFO that says it does not. Where that cannot be changed on the way, as in TLS from the first byte, headers come
// as ever.
func WithoutHeaders() nats.Option {
	return nats.SetCustomDialer(headerlessDialer{net.Dialer{Timeout: dialTimeout}})
}

type headerlessDialer struct{ net.Dialer }

// Dial implements nats.CustomDialer.
func (d headerlessDialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return &headerlessConn{Conn: c}, nil
}

// Both are equally long, so that nothing moves; null leaves the client's own value, which is no.
const (
	offersHeaders = `"headers":true`
	sameWithout   = `"headers":null`
)

// headerlessConn changes the line that a server begins with.
type headerlessConn struct {
	net.Conn
	read    bool // a byte of the line has come
	done    bool // all of it has, or it is no INFO
	matched int  // bytes of offersHeaders that the last ones read are
}

func (c *headerlessConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for i := 0; i < n && !c.done; i++ {
		c.done = p[i] == '\n' || !c.read && p[i] != 'I'
		c.read = true
		p[i] = c.change(p[i])
	}
	return n, err //nolint:wrapcheck // it is the connection's own
}

func (c *headerlessConn) change(b byte) byte {
	switch b {
	case offersHeaders[c.matched]:
		b = sameWithout[c.matched]
		c.matched = (c.matched + 1) % len(offersHeaders)
	case offersHeaders[0]:
		c.matched = 1
	default:
		c.matched = 0
	}
	return b
}
