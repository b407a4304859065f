package main

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// scrapeEvery is how often the ingesters' counters are read. What a process counted after the last time is lost when it is killed.
const scrapeEvery = 250 * time.Millisecond

// counters adds up the counters of processes over all their lives.
type counters struct {
	mu   sync.Mutex
	last map[string]float64 // by process id and name
}

// total is what all processes have counted under the name.
func (c *counters) total(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0.0
	for key, v := range c.last {
		if strings.HasSuffix(key, " audit_ingester_"+name) {
			sum += v
		}
	}
	return int(sum)
}

// follow reads the counters of a service until ctx is done.
func (c *counters) follow(ctx context.Context, s *service, addr string) {
	for sleep(ctx, scrapeEvery) {
		if pid := s.pid(); pid != 0 {
			c.scrape(ctx, strconv.Itoa(pid), addr)
		}
	}
}

// scrape reads once; a process that does not answer has nothing new to say.
func (c *counters) scrape(ctx context.Context, instance, addr string) {
	ctx, cancel := context.WithTimeout(ctx, 2*scrapeEvery)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer func() { _ = resp.Body.Close() }()
	for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
		name, value, ok := strings.Cut(scan.Text(), " ")
		if !ok || !strings.HasPrefix(name, "audit_ingester_") || !strings.HasSuffix(name, "_total") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			c.mu.Lock()
			c.last[instance+" "+name] = v
			c.mu.Unlock()
		}
	}
}
