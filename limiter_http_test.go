package ratelimit_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestClientThatHasGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithTimeout(t.Context(), -1)
	defer cancelLate()
	never := func(*gin.Context, error) { assert.Fail(t, "a client that aborts is no failure of the store") }

	for name, c := range map[string]struct {
		ctx     context.Context
		options options
		status  int
		ran     bool
	}{
		"before":                        {ctx: ctx, status: 200, ran: true},
		"and nothing is left":           {ctx: ctx, options: options{costOf(9)}, status: 429},
		"and the store says so":         {ctx: ctx, options: options{ratelimit.WithName("a"), obedientStore(), ratelimit.WithErrorHandler(never)}, status: 200, ran: true},
		"the server's own deadline":     {ctx: late, status: 200, ran: true},
		"the deadline, and store obeys": {ctx: late, options: options{ratelimit.WithName("a"), obedientStore(), ratelimit.WithErrorHandler(ratelimit.FailClosed)}, status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			ran := false
			h := serving(perMinute(1, c.options...), func(*gin.Context) { ran = true })
			a := ask(h, withContext(c.ctx))
			require.Equal(t, c.status, a.status)
			require.Equal(t, c.ran, ran)
		})
	}
	t.Run("during the decision", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		memory := ratelimit.NewMemoryStore()
		ran := false
		h := serving(
			perMinute(1, ratelimit.WithName("a"), ratelimit.WithStore(spyStore{memory,
				func(ctx context.Context, key string, take ratelimit.Take) (ratelimit.Result, error) {
					cancel()
					return memory.Take(ctx, key, take)
				},
			})),
			func(*gin.Context) { ran = true },
		)
		require.Equal(t, 200, ask(h, withContext(ctx)).status)
		require.True(t, ran, "as without a limiter")
	})
}

func TestMethods(t *testing.T) {
	router := engine()
	router.Use(perMinute(2))
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		router.Handle(method, "/", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	}
	router.GET("/unchanged", func(c *gin.Context) { c.Status(http.StatusNotModified) })

	a := send(router, http.MethodOptions, "/")
	require.Equal(t, 204, a.status)
	require.Equal(t, "1", a.header.Get("X-RateLimit-Remaining"), "a preflight is counted; put CORS before the limiter")
	a = send(router, http.MethodGet, "/unchanged")
	require.Equal(t, 304, a.status)
	require.Equal(t, "0", a.header.Get("X-RateLimit-Remaining"))
	require.NotContains(t, a.header, "Cache-Control")
	a = send(router, http.MethodHead, "/")
	require.Equal(t, 429, a.status)
	require.Empty(t, a.body)
	require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"))
	require.NotEmpty(t, a.header.Get("Retry-After"))
	a = send(router, http.MethodOptions, "/")
	require.Equal(t, 429, a.status)
	require.NotEmpty(t, a.body)
}

// Other middleware may write to the values in a header map. That must change neither another value of the same response nor
// another response.
func TestHeaderValuesAreNotShared(t *testing.T) {
	var first http.Header
	h := serving(
		perMinute(2, ratelimit.WithHeaders(ratelimit.XHeaders, ratelimit.IETFHeaders)),
		func(c *gin.Context) {
			if first != nil {
				return
			}
			first = c.Writer.Header()
			for name, values := range first {
				values[0] = "changed"
				first[name] = append(values, "appended")
			}
		},
	)
	ask(h)
	for name, values := range first {
		if name != "Content-Type" {
			require.Equal(t, []string{"changed", "appended"}, values, name)
		}
	}
	for _, status := range []int{200, 429} {
		a := ask(h)
		require.Equal(t, status, a.status)
		require.NotContains(t, fmt.Sprint(a.header), "changed")
		require.NotContains(t, fmt.Sprint(a.header), "appended")
		require.Equal(t, []string{"2"}, a.header["X-Ratelimit-Limit"])
	}
}

func TestOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := listen(t, serving(ratelimit.New(
			ratelimit.WithCapacity(5),
			ratelimit.WithRefillRate(ratelimit.PerMinute(20)),
		)))
		call := func(want int) (retryAfter string) {
			open(t, client, func(response *http.Response) {
				_, err := io.Copy(io.Discard, response.Body)
				require.NoError(t, err)
				require.Equal(t, want, response.StatusCode)
				retryAfter = response.Header.Get("Retry-After")
			})
			return retryAfter
		}
		for range 5 {
			call(200)
		}
		for range 10 {
			require.Equal(t, "3", call(429))
			time.Sleep(3*time.Second - time.Millisecond)
			require.Equal(t, "1", call(429))
			time.Sleep(time.Millisecond)
			call(200)
		}
	})
}

func TestStreaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan struct{})
		client := listen(t, serving(perMinute(2), func(c *gin.Context) {
			c.SSEvent("n", 1)
			c.Writer.Flush()
			<-more
			c.SSEvent("n", 2)
			c.Abort()
		}))
		open(t, client, func(response *http.Response) {
			require.Equal(t, "1", response.Header.Get("X-RateLimit-Remaining"), "there before the handler is done")
			close(more)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, "event:n\ndata:1\n\nevent:n\ndata:2\n\n", string(body))
		})
	})
}

func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := listen(t, serving(perMinute(1), func(c *gin.Context) {
			remaining := c.Writer.Header().Get("X-RateLimit-Remaining")
			hijacked, buffer, err := c.Writer.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = hijacked.Close() }()
			_, _ = fmt.Fprintf(buffer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"+
				"X-RateLimit-Remaining: %s\r\n\r\n", remaining)
			_ = buffer.Flush()
			line, _ := buffer.ReadString('\n')
			_, _ = hijacked.Write([]byte(strings.ToUpper(line)))
			c.Abort()
		}))
		open(t, client, func(response *http.Response) {
			require.Equal(t, 101, response.StatusCode)
			require.Equal(t, "0", response.Header.Get("X-RateLimit-Remaining"))
			stream, ok := response.Body.(io.ReadWriter)
			require.True(t, ok)
			_, err := stream.Write([]byte("echo\n"))
			require.NoError(t, err)
			line, err := bufio.NewReader(stream).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "ECHO\n", line)
		})
		open(t, client, func(response *http.Response) {
			require.Equal(t, 429, response.StatusCode, "a refused upgrade is an answer like any other")
		})
	})
}
