package compat

import (
	stdgzip "compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func newGzip() gin.HandlerFunc { return gzip.Gzip(gzip.DefaultCompression) }

// decoded returns the body as a client reads it that has asked for gzip.
func (r reply) decoded(t *testing.T) string {
	t.Helper()
	if r.header.Get("Content-Encoding") == "" {
		return r.body
	}
	require.Equal(t, "gzip", r.header.Get("Content-Encoding"))
	reader, err := stdgzip.NewReader(strings.NewReader(r.body))
	require.NoError(t, err)
	body, err := io.ReadAll(reader)
	require.NoError(t, err)
	return string(body)
}

func TestGzip(t *testing.T) {
	eachOrder(t, newGzip, func(t *testing.T, o order) {
		text := strings.Repeat("hello ", 1000)
		site := serve(t, newRouter(t, o.with(newLimiter(1)), func(c *gin.Context) {
			_, decided := ratelimit.Get(c)
			require.True(t, decided)
			c.String(http.StatusOK, text)
		}))
		r := site.get(t, "Accept-Encoding", "gzip")
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, "gzip", r.header.Get("Content-Encoding"))
		require.Equal(t, "0", r.header.Get("X-RateLimit-Remaining"))
		require.Equal(t, text, r.decoded(t))

		r = site.get(t, "Accept-Encoding", "gzip")
		r.body = r.decoded(t)
		requireRefusal(t, r)
		requireRefusal(t, site.get(t))
	})
}

// The outcome by which a limiter charges is the handler's, whoever compresses it.
func TestGzipChargeIf(t *testing.T) {
	eachOrder(t, newGzip, func(t *testing.T, o order) {
		failures := newLimiter(2, ratelimit.WithChargeIf(func(c *gin.Context) bool { return c.Writer.Status() == http.StatusUnauthorized }))
		site := serve(t, newRouter(t, o.with(failures), func(c *gin.Context) {
			if c.GetHeader("Password") != "right" {
				c.String(http.StatusUnauthorized, "no")
				return
			}
			c.String(http.StatusOK, "welcome")
		}))
		for range 5 {
			require.Equal(t, "welcome", site.get(t, "Accept-Encoding", "gzip", "Password", "right").decoded(t))
		}
		for range 2 {
			r := site.get(t, "Accept-Encoding", "gzip")
			require.Equal(t, http.StatusUnauthorized, r.status)
			require.Equal(t, "no", r.decoded(t))
		}
		require.Equal(t, http.StatusTooManyRequests, site.get(t, "Accept-Encoding", "gzip", "Password", "right").status)
	})
}

// Each event of a stream arrives when it is flushed, and not when the handler is done.
func TestGzipStream(t *testing.T) {
	eachOrder(t, newGzip, func(t *testing.T, o order) {
		received := make(chan struct{})
		site := serve(t, newRouter(t, o.with(newLimiter(1)), func(c *gin.Context) {
			for i := range 3 {
				c.SSEvent("n", i)
				c.Writer.Flush()
				select {
				case <-received:
				case <-c.Request.Context().Done():
					return
				}
			}
		}))
		response, err := site.open(t.Context(), http.MethodGet, "/", "Accept-Encoding", "gzip")
		require.NoError(t, err)
		defer response.Body.Close()
		require.Equal(t, "0", response.Header.Get("X-RateLimit-Remaining"))
		reader, err := stdgzip.NewReader(response.Body)
		require.NoError(t, err)
		for i := range 3 {
			want := fmt.Sprintf("event:n\ndata:%d\n\n", i)
			event := make([]byte, len(want))
			_, err := io.ReadFull(reader, event)
			require.NoError(t, err)
			require.Equal(t, want, string(event))
			received <- struct{}{}
		}
	})
}
