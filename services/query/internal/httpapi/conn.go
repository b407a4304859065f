package httpapi

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/google/uuid"
)

// conn is a connection on which net/http's own refusals get the form that all errors have. What is no HTTP never becomes a request, and net/http
// answers it by itself, in plain text; it has no hook for that. But it does so in one write, and between requests, when no handler has written yet.
type conn struct {
	*net.TCPConn
	refused func(status int)
	// answering is set while a handler has the connection: what is written then is its own.
	answering atomic.Bool
}

// Write sends b, or in the place of an answer that no handler gave, ours.
func (c *conn) Write(b []byte) (int, error) {
	if c.answering.Load() {
		return c.TCPConn.Write(b)
	}
	status, ok := statusOf(b)
	if !ok {
		return c.TCPConn.Write(b)
	}
	c.refused(status)
	if _, err := c.TCPConn.Write(refusal(status)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// statusOf reads the status of an answer's first bytes, if it is an error's.
func statusOf(b []byte) (int, bool) {
	const line = "HTTP/1.1 400"
	if len(b) < len(line) || string(b[:len("HTTP/1.")]) != "HTTP/1." {
		return 0, false
	}
	status, err := strconv.Atoi(string(b[len(line)-3 : len(line)]))
	return status, err == nil && status >= http.StatusBadRequest
}

// refusal is the answer to what is not HTTP as we speak it. The connection ends with it.
func refusal(status int) []byte {
	e := apiError{Code: codeMalformed, Message: "This is not a request as HTTP/1.1 has them: " + http.StatusText(status) + "."}
	if status == http.StatusRequestHeaderFieldsTooLarge {
		e = *errHeaderTooLarge
	}
	body := appendError(nil, &e)
	b := append([]byte("HTTP/1.1 "), strconv.Itoa(status)+" "+http.StatusText(status)+"\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n"+
		"X-Content-Type-Options: nosniff\r\n"+headerRequestID+": "+uuid.NewString()+"\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\nConnection: close\r\n\r\n"...)
	return append(b, body...)
}

// connListener makes each connection a conn.
type connListener struct {
	net.Listener
	refused func(status int)
}

// Accept waits for the next connection.
func (l connListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c, nil
	}
	return &conn{TCPConn: tcp, refused: l.refused}, nil
}

type connKey struct{}

// withConn puts the connection where answering finds it.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// answering is around every handler.
func answering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.answering.Store(true)
		}
		next.ServeHTTP(w, r)
	})
}

// connState notes the end of an answer: all of it has been written then.
func connState(c net.Conn, state http.ConnState) {
	if c, ok := c.(*conn); ok && state == http.StateIdle {
		c.answering.Store(false)
	}
}
