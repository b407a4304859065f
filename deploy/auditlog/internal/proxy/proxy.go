// Package proxy is a TCP proxy that breaks connections the ways networks do: it stalls them, resets them, and loses replies to requests that
// it has passed on.
package proxy

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// dialTimeout bounds connecting to the target.
const dialTimeout = 5 * time.Second

// lossDelay is how long after a request whose reply gets lost the connection is reset: the rest of the request still passes, and the target
// has the time to act on it.
const lossDelay = 300 * time.Millisecond

// Proxy passes connections on to one target. Its methods may be called from any goroutine.
type Proxy struct {
	lis        net.Listener
	target     string
	minRequest int
	wg         sync.WaitGroup

	mu     sync.Mutex // guards what follows
	gate   chan struct{}
	losing bool
	closed bool
	links  map[*link]struct{}

	lost atomic.Int64
}

// Listen starts a proxy on a free port of 127.0.0.1 for the target, a host and port. minRequest is how many bytes the client must have sent
// since the target's last word to make it a request whose reply Lose takes away. End it with Close.
func Listen(target string, minRequest int) (*Proxy, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the proxy to %s: %w", target, err)
	}
	p := &Proxy{lis: lis, target: target, minRequest: minRequest, gate: make(chan struct{}), links: map[*link]struct{}{}}
	close(p.gate)
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.lis.Addr().String() }

// Lost is how many replies were taken away so far.
func (p *Proxy) Lost() int64 { return p.lost.Load() }

// Stall lets nothing pass until Flow; connections stay open, and new ones are accepted.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if opened(p.gate) {
		p.gate = make(chan struct{})
	}
}

// Lose takes the replies of all requests away until Flow, and resets their connections.
func (p *Proxy) Lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = true
}

// Flow ends Stall and Lose.
func (p *Proxy) Flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = false
	if !opened(p.gate) {
		close(p.gate)
	}
}

// Reset ends all connections with a reset. New ones may come at once.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Close resets all connections and waits until nothing of the proxy runs any more.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.lis.Close()
	p.Flow()
	p.Reset()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		conn, err := p.lis.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(conn) })
	}
}

// serve passes on one connection until either side ends it.
func (p *Proxy) serve(client net.Conn) {
	server, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		(&link{ends: []net.Conn{client}}).reset()
		return
	}
	l := &link{ends: []net.Conn{client, server}, done: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.reset()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(l, server, client, p.request) })
	wg.Go(func() { p.copy(l, client, server, p.reply) })
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// copy passes bytes from src to dst as far as pass lets them; when it ends, so does the link.
func (p *Proxy) copy(l *link, dst io.Writer, src io.Reader, pass func(l *link, n int) bool) {
	defer l.end()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && p.wait(l) && pass(l, n) {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// wait returns when nothing stalls; false when the link has ended before.
func (p *Proxy) wait(l *link) bool {
	for {
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		if opened(gate) {
			return true
		}
		select {
		case <-gate:
		case <-l.done:
			return false
		}
	}
}

// request counts what the client sends and decides whether its reply gets lost.
func (p *Proxy) request(l *link, n int) bool {
	p.mu.Lock()
	losing := p.losing
	p.mu.Unlock()
	if l.asked.Add(int64(n)) >= int64(p.minRequest) && losing && !l.deaf.Swap(true) {
		p.lost.Add(1)
		time.AfterFunc(lossDelay, l.reset)
	}
	return true
}

// reply passes on what the target says unless it is lost.
func (p *Proxy) reply(l *link, _ int) bool {
	l.asked.Store(0)
	return !l.deaf.Load()
}

// link is one connection through the proxy.
type link struct {
	ends  []net.Conn
	asked atomic.Int64 // bytes from the client since the target's last word
	deaf  atomic.Bool  // the target's words are lost

	once sync.Once
	done chan struct{}
}

// reset ends the link with a reset on both sides.
func (l *link) reset() {
	for _, c := range l.ends {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // on a connection that is gone already it changes nothing
		}
	}
	l.end()
}

func (l *link) end() {
	l.once.Do(func() {
		if l.done != nil {
			close(l.done)
		}
		for _, c := range l.ends {
			_ = c.Close() // nobody is left to be told
		}
	})
}

func opened(gate chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}
