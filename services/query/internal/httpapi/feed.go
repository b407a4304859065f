package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/trail"
)

// Limits of feeds that wait.
const (
	// maxWait is the longest a request may wait for events; a longer wait counts as this.
	maxWait = 60 * time.Second
	// maxPolls bounds the requests that wait at the same time. Waiting takes no slot at the store.
	maxPolls = 2000
	// pollPause is the least time between two looks of one request: a partition is shared, and most of what moves it is another tenant's.
	pollPause = 200 * time.Millisecond
)

// Positions says how far the ingester has come.
type Positions interface {
	// Committed is the sequence up to which everything of the tenant is in the store; sure is false when it may be older than it could be.
	Committed(ctx context.Context, tenant uuid.UUID) (seq uint64, sure bool)
	// Moved is closed once the position is beyond seq.
	Moved(tenant uuid.UUID, seq uint64) <-chan struct{}
}

// feedParams are the parameters of GET /v1/audit-log/feed.
type feedParams struct {
	limit  int
	filter audit.Filter
	cursor string
	now    bool // begin with what comes from now on
	wait   time.Duration
}

func parseFeed(raw string) (feedParams, []fault) {
	values, faults := splitQuery(raw)
	r := &paramReader{values: values, faults: faults}
	p := feedParams{limit: r.limit(), cursor: r.one("cursor"), filter: r.filter(), wait: r.duration("wait", maxWait)}
	switch start := r.one("start"); {
	case start == "":
	case start != "beginning" && start != "now":
		r.fault("start", "must be beginning or now")
	case p.cursor != "":
		r.fault("start", "must not be given with a cursor, which says where to begin")
	default:
		p.now = start == "now"
	}
	r.rest()
	return p, r.faults
}

// duration is a length of time such as 30s; more than longest counts as that.
func (r *paramReader) duration(name string, longest time.Duration) time.Duration {
	v := r.one(name)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		r.fault(name, "must be a length of time such as 30s, 500ms or 0s")
		return 0
	}
	return min(d, longest)
}

// feed answers GET /v1/audit-log/feed.
func (s *Server) feed(c *gin.Context) {
	p, faults := parseFeed(c.Request.URL.RawQuery)
	key := keyOf(c)
	q := audit.FeedQuery{Tenant: key.Tenant, Filter: p.filter, Limit: p.limit}
	var cursorErr error
	if p.cursor != "" {
		q.After, cursorErr = s.Cursors.DecodeFeed(p.cursor, key.Tenant, &p.filter)
	}
	if e := listFaults(faults, cursorErr); e != nil {
		s.fail(c, e)
		return
	}
	scope, ok := s.authorize(c, policy.QueryLog, p.filter, p.limit)
	if !ok {
		return
	}
	page, ok := s.poll(c, scope, q, p)
	if !ok {
		return
	}
	c.Set(ctxRows, len(page.Events))
	if !s.recorded(c, len(page.Events), func(r *trail.Read) { r.Continued = p.cursor != "" }) {
		return
	}
	s.writeFeed(c, &page, s.Cursors.EncodeFeed(key.Tenant, &p.filter, page.Through))
}

// poll looks until there is something to show, the wait is over, the client goes or the server stops. False means that an answer has been given.
func (s *Server) poll(c *gin.Context, scope policy.Scope, q audit.FeedQuery, p feedParams) (audit.FeedPage, bool) {
	until := time.Now().Add(p.wait)
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(until.Add(s.srv.WriteTimeout))
	for waiting := p.wait > 0; ; {
		page, ok := s.look(c, scope, &q, p.now)
		if !ok || len(page.Events) > 0 || page.More || !waiting {
			return page, ok
		}
		p.now, q.After = false, page.Through
		if waiting, ok = s.await(c, q, until); !ok {
			return page, false
		}
		// A key that has been revoked meanwhile, or that policies no longer permit, gets nothing more.
		if scope, ok = s.reauthorize(c, policy.QueryLog, p.filter, p.limit); !ok {
			return page, false
		}
	}
}

// look reads one page of what is committed now.
func (s *Server) look(c *gin.Context, scope policy.Scope, q *audit.FeedQuery, now bool) (page audit.FeedPage, ok bool) {
	ctx := c.Request.Context()
	committed, sure := s.Positions.Committed(ctx, q.Tenant)
	if q.Through = committed; now {
		q.After = committed
	}
	if q.After < q.Through {
		if !s.enter(c) {
			return page, false
		}
		var err error
		page, err = func() (audit.FeedPage, error) { defer s.leave(c); return s.Events.Feed(ctx, scope, *q) }()
		if err != nil {
			s.fail(c, storeError(err))
			return page, false
		}
	} else {
		page.Through = q.After
	}
	if sure {
		return page, true
	}
	if len(page.Events) == 0 && !page.More {
		s.fail(c, errPositionUnknown) // nobody can say that there is nothing
		return page, false
	}
	page.More = true
	return page, true
}

// await waits for the position to move. again is false when the wait is over; ok is false when the client has gone or cannot be let in.
func (s *Server) await(c *gin.Context, q audit.FeedQuery, until time.Time) (again, ok bool) {
	select {
	case s.polls <- struct{}{}:
	default:
		s.fail(c, errBusy)
		return false, false
	}
	s.metrics.stream.waiting.Inc()
	defer func() { <-s.polls; s.metrics.stream.waiting.Dec() }()
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	pause, stop := context.WithTimeout(context.Background(), pollPause)
	defer stop()
	for _, step := range []<-chan struct{}{s.Positions.Moved(q.Tenant, q.After), pause.Done()} {
		select {
		case <-step:
		case <-end.C:
			return false, true
		case <-s.ending:
			return false, true
		case <-c.Request.Context().Done():
			s.fail(c, storeError(c.Request.Context().Err()))
			return false, false
		}
	}
	return true, true
}

// reauthorize asks again, in the middle of a long answer, whether the key is good and the policies permit. It takes nothing from the key's rate.
func (s *Server) reauthorize(c *gin.Context, action policy.Action, f audit.Filter, limit int) (policy.Scope, bool) {
	text, _ := single(c.Request.Header, headerKey)
	now := time.Now()
	k, err := s.Keys.Authenticate(text, source(c.Request), now)
	if err != nil {
		s.fail(c, errUnauthenticated)
		return policy.Scope{}, false
	}
	d := s.Gate.Decide(c.Request.Context(), policy.Request{
		Principal: k.Principal(), Tenant: k.Tenant, Action: action, Filter: f, Limit: limit, SourceIP: source(c.Request), Now: now,
	})
	if !d.Allowed {
		s.fail(c, denied(d))
		return policy.Scope{}, false
	}
	return d.Scope, true
}

func (s *Server) writeFeed(c *gin.Context, page *audit.FeedPage, cursor string) {
	buf, _ := buffers.Get().(*[]byte)
	b := append((*buf)[:0], `{"data":[`...)
	for i := range page.Events {
		if i > 0 {
			b = append(b, ',')
		}
		e := &page.Events[i]
		b = appendEvent(b, e)
		b = append(b[:len(b)-1], `,"ingested_at":"`...)
		b = append(appendTime(b, e.IngestedAt), `"}`...)
	}
	b = appendField(append(b, ']'), `,"next_cursor":`, cursor)
	b = append(strconv.AppendBool(append(b, `,"has_more":`...), page.More), '}')
	writeJSON(c, http.StatusOK, b)
	if *buf = b; cap(b) <= maxPooledBytes {
		buffers.Put(buf)
	}
}
