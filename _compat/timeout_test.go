package compat

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// newTimeout returns a middleware of gin-contrib/timeout's design: the handlers behind it run in a goroutine of their own
// and write to a buffer, and their request's context has a deadline. If they are late, the client gets 408, and what they
// write is dropped.
func newTimeout(after time.Duration) gin.HandlerFunc {
	return func(c *gin.Context) {
		ctx, cancel := context.WithTimeout(c.Request.Context(), after)
		defer cancel()
		w := &timeoutWriter{ResponseWriter: c.Writer, ctx: ctx, header: http.Header{}, status: http.StatusOK}
		c.Request, c.Writer = c.Request.WithContext(ctx), w

		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Next()
		}()
		select {
		case <-done:
		case <-ctx.Done():
		}
		late := w.late()
		if late {
			w.ResponseWriter.WriteHeader(http.StatusRequestTimeout)
			_, _ = w.ResponseWriter.WriteString("too late")
		}
		<-done
		if !late {
			maps.Copy(w.ResponseWriter.Header(), w.header)
			w.ResponseWriter.WriteHeader(w.status)
			_, _ = w.ResponseWriter.Write(w.body.Bytes())
		}
		c.Writer = w.ResponseWriter
	}
}

// timeoutWriter is what the handlers see. The client's is newTimeout's to use.
type timeoutWriter struct {
	gin.ResponseWriter
	ctx    context.Context
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *timeoutWriter) late() bool { return errors.Is(w.ctx.Err(), context.DeadlineExceeded) }

func (w *timeoutWriter) Header() http.Header               { return w.header }
func (w *timeoutWriter) WriteHeader(status int)            { w.status = status }
func (w *timeoutWriter) WriteHeaderNow()                   {}
func (w *timeoutWriter) Write(p []byte) (int, error)       { return w.body.Write(p) }
func (w *timeoutWriter) WriteString(s string) (int, error) { return w.body.WriteString(s) }
func (w *timeoutWriter) Size() int                         { return w.body.Len() }
func (w *timeoutWriter) Written() bool                     { return w.body.Len() > 0 }

func (w *timeoutWriter) Status() int {
	if w.late() {
		return http.StatusRequestTimeout
	}
	return w.status
}

// short is when a handler that never ends by itself is given up.
const short = 10 * time.Millisecond

func generous() gin.HandlerFunc { return newTimeout(time.Hour) }
func hasty() gin.HandlerFunc    { return newTimeout(short) }

// stuck is a handler that works until nobody waits for it.
func stuck(c *gin.Context) {
	<-c.Request.Context().Done()
	c.String(http.StatusOK, "done")
}

func TestTimeoutInTime(t *testing.T) {
	eachOrder(t, generous, func(t *testing.T, o order) {
		site := serve(t, newRouter(t, o.with(newLimiter(1)), func(c *gin.Context) {
			result, decided := ratelimit.Get(c)
			require.True(t, decided)
			require.Zero(t, result.Remaining)
			hello(c)
		}))
		r := site.get(t)
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, "hello", r.body)
		require.Equal(t, []string{"0"}, r.header["X-Ratelimit-Remaining"])
		requireRefusal(t, site.get(t))
	})
}

// A request that takes too long has cost its token. The headers that say so reach the client if the limiter comes first.
func TestTimeoutIsCharged(t *testing.T) {
	eachOrder(t, hasty, func(t *testing.T, o order) {
		limiter := newLimiter(1)
		site := serve(t, newRouter(t, o.with(limiter), stuck))
		r := site.get(t)
		require.Equal(t, http.StatusRequestTimeout, r.status)
		require.Equal(t, "too late", r.body)
		require.Equal(t, !o.before, r.header.Get("X-RateLimit-Remaining") == "0")
		requireRefusal(t, site.get(t))
	})
}

// WithChargeIf sees the status that the client got.
func TestTimeoutChargeIf(t *testing.T) {
	eachOrder(t, hasty, func(t *testing.T, o order) {
		var statuses []int
		limiter := newLimiter(1, ratelimit.WithChargeIf(func(c *gin.Context) bool {
			statuses = append(statuses, c.Writer.Status())
			return c.Writer.Status() != http.StatusRequestTimeout
		}))
		site := serve(t, newRouter(t, o.with(limiter), stuck))
		for range 3 {
			require.Equal(t, http.StatusRequestTimeout, site.get(t).status, "the token has come back")
		}
		require.Equal(t, []int{408, 408, 408}, statuses)
	})
}

// A handler that settles after it was given up corrects the charge, and does not disturb the answer.
func TestTimeoutThenSettle(t *testing.T) {
	eachOrder(t, hasty, func(t *testing.T, o order) {
		limiter := newLimiter(10, ratelimit.WithCost(func(*gin.Context) int { return 8 }))
		settled := make(chan error, 1)
		site := serve(t, newRouter(t, o.with(limiter), func(c *gin.Context) {
			stuck(c)
			settled <- ratelimit.Settle(c, 3)
		}))
		require.Equal(t, http.StatusRequestTimeout, site.get(t).status)
		require.NoError(t, <-settled)
		usage, err := limiter.Peek(t.Context(), ratelimit.AddressKey("127.0.0.1"))
		require.NoError(t, err)
		require.Equal(t, 7, usage.Limits[0].Remaining)
	})
}

// A limiter that delays knows the deadline of a timeout around it: what cannot have its turn in time is refused at once,
// and reserves nothing.
func TestTimeoutAroundADelay(t *testing.T) {
	limiter := newLimiter(1, ratelimit.WithMaxWait(24*time.Hour))
	site := serve(t, newRouter(t, []gin.HandlerFunc{newTimeout(time.Minute), limiter.Handle}, hello))
	require.Equal(t, http.StatusOK, site.get(t).status)
	for range 3 {
		requireRefusal(t, site.get(t))
	}
}

// A client that hangs up while its request is delayed leaves the queue. A timeout around it is not reached.
func TestTimeoutHangUp(t *testing.T) {
	eachOrder(t, func() gin.HandlerFunc { return newTimeout(48 * time.Hour) }, func(t *testing.T, o order) {
		reasons := make(chan ratelimit.Reason, 2)
		limiter := newLimiter(1, ratelimit.WithMaxWait(24*time.Hour),
			ratelimit.WithObserver(func(_ context.Context, e ratelimit.Event) { reasons <- e.Reason }))
		site := serve(t, newRouter(t, o.with(limiter), hello))
		require.Equal(t, http.StatusOK, site.get(t).status)
		require.Equal(t, ratelimit.ReasonAllowed, <-reasons)

		debt := func() int {
			usage, err := limiter.Peek(t.Context(), ratelimit.AddressKey("127.0.0.1"))
			require.NoError(t, err)
			return usage.Limits[0].Debt
		}
		ctx, hangUp := context.WithCancel(t.Context())
		answered := make(chan error, 1)
		go func() {
			response, err := site.open(ctx, http.MethodGet, "/")
			if err == nil {
				response.Body.Close()
			}
			answered <- err
		}()
		require.Eventually(t, func() bool { return debt() == 1 }, 10*time.Second, time.Millisecond, "it waits for its turn")
		hangUp()
		require.ErrorIs(t, <-answered, context.Canceled)
		require.Equal(t, ratelimit.ReasonGone, <-reasons)
		require.Zero(t, debt(), "its place is free")
	})
}

// net/http's own timeout goes around the engine.
func TestTimeoutHandler(t *testing.T) {
	ended := make(chan struct{})
	router := newRouter(t, []gin.HandlerFunc{newLimiter(2).Handle}, hello)
	router.GET("/stuck", func(c *gin.Context) {
		stuck(c)
		close(ended)
	})
	r := serve(t, http.TimeoutHandler(router, short, "too late")).send(t, http.MethodGet, "/stuck")
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Equal(t, "too late", r.body)
	<-ended

	site := serve(t, http.TimeoutHandler(router, time.Hour, "too late"))
	r = site.get(t)
	require.Equal(t, http.StatusOK, r.status)
	require.Equal(t, "0", r.header.Get("X-RateLimit-Remaining"), "the late one is charged")
	requireRefusal(t, site.get(t))
}
