package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go"
	chgo "github.com/ClickHouse/clickhouse-go/v2"
)

const (
	// DefaultMaxConns bounds the connections that insert at the same time; max_open_conns in the DSN changes it.
	DefaultMaxConns = 4
	// DefaultDialTimeout bounds connecting to one host, handshake included; dial_timeout in the DSN changes it.
	DefaultDialTimeout = 5 * time.Second
)

// conn is one connection for inserts.
type conn struct {
	*ch.Client
	raw net.Conn
}

// do is ch.Client.Do that ends when ctx does: ch-go alone may wait for the rest of a packet for ever. Closing the connection rather than
// cancelling the query leaves the insert to the server, which may still apply it.
func (c *conn) do(ctx context.Context, q ch.Query) error {
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	defer stop()
	return c.Do(ctx, q)
}

// pool keeps idle connections and bounds how many are in use.
type pool struct {
	opts  *chgo.Options
	slots chan struct{} // one for each connection in use

	mu     sync.Mutex
	idle   []*conn
	closed bool

	next atomic.Uint32 // of round robin
}

func newPool(opts *chgo.Options) *pool {
	return &pool{opts: opts, slots: make(chan struct{}, opts.MaxOpenConns)}
}

// with lends f a connection. One on which anything but an answer of the server went wrong is closed, and all idle ones with it: what ended one
// connection has mostly ended its neighbours.
func (p *pool) with(ctx context.Context, f func(*conn) error) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection: %w", ctx.Err())
	}
	defer func() { <-p.slots }()
	c, err := p.take(ctx)
	if err != nil {
		return err
	}
	err = f(c)
	if err != nil {
		_ = c.raw.Close()
		if !ch.IsException(err) {
			p.drain()
		}
		return err
	}
	p.put(c)
	return nil
}

func (p *pool) take(ctx context.Context) (*conn, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errors.New("the store is closed")
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	return p.dial(ctx)
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || c.IsClosed() {
		_ = c.raw.Close()
		return
	}
	p.idle = append(p.idle, c)
}

// drain closes the idle connections.
func (p *pool) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drain()
}

// dial connects to the first host that answers, in the order that connection_open_strategy of the DSN says.
func (p *pool) dial(ctx context.Context) (*conn, error) {
	var errs []error
	first := 0
	switch p.opts.ConnOpenStrategy {
	case chgo.ConnOpenRoundRobin:
		first = int(p.next.Add(1))
	case chgo.ConnOpenRandom:
		first = rand.IntN(len(p.opts.Addr))
	}
	for i := range p.opts.Addr {
		addr := p.opts.Addr[(first+i)%len(p.opts.Addr)]
		c, err := p.dialHost(ctx, addr)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("connect to clickhouse at %s: %w", addr, err))
		if _, _, refused := exception(err); refused || ctx.Err() != nil {
			break // a wrong password is as wrong on the next host
		}
	}
	return nil, errors.Join(errs...)
}

func (p *pool) dialHost(ctx context.Context, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.DialTimeout)
	defer cancel()
	raw, err := p.dialNet(ctx, addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	client, err := ch.Connect(ctx, raw, ch.Options{
		Database: p.opts.Auth.Database, User: p.opts.Auth.Username, Password: p.opts.Auth.Password,
		ClientName: clientName, Compression: compression(p.opts.Compression), CompressionLevel: level(p.opts.Compression),
		HandshakeTimeout: p.opts.DialTimeout, Settings: dsnSettings(p.opts.Settings),
	})
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return &conn{Client: client, raw: raw}, nil
}

func (p *pool) dialNet(ctx context.Context, addr string) (net.Conn, error) {
	switch {
	case p.opts.DialContext != nil:
		return p.opts.DialContext(ctx, addr)
	case p.opts.TLS != nil:
		return (&tls.Dialer{Config: p.opts.TLS}).DialContext(ctx, "tcp", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

// dsnSettings are the parameters of the DSN that clickhouse-go takes for settings of the server.
func dsnSettings(in chgo.Settings) []ch.Setting {
	out := make([]ch.Setting, 0, len(in))
	for k, v := range in {
		out = append(out, ch.Setting{Key: k, Value: fmt.Sprint(v), Important: true})
	}
	return out
}

func compression(c *chgo.Compression) ch.Compression {
	if c == nil {
		return ch.CompressionDisabled
	}
	switch c.Method {
	case chgo.CompressionLZ4:
		return ch.CompressionLZ4
	case chgo.CompressionLZ4HC:
		return ch.CompressionLZ4HC
	case chgo.CompressionZSTD:
		return ch.CompressionZSTD
	}
	return ch.CompressionDisabled
}

func level(c *chgo.Compression) ch.CompressionLevel {
	if c == nil {
		return 0
	}
	return ch.CompressionLevel(c.Level)
}
