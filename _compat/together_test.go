package compat

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gin-ratelimit/ratelimit"
)

// everything is all middlewares in the order that the README gives. A timeout is not among them where a handler takes the
// connection over or flushes, because a timeout buffers.
func everything(limiter *ratelimit.Limiter, before ...gin.HandlerFunc) []gin.HandlerFunc {
	return slices.Concat([]gin.HandlerFunc{gin.Recovery(), newCORS()}, before, []gin.HandlerFunc{
		otelgin.Middleware("shop", otelgin.WithTracerProvider(noop.NewTracerProvider())),
		newRequestID(), newSessions(), limiter.Handle, newGzip(),
	})
}

func TestTogether(t *testing.T) {
	router := newRouter(t, everything(newLimiter(2), generous()), func(c *gin.Context) { c.JSON(http.StatusOK, visit(c)) })
	require.Empty(t, warningCodes(router))
	site := serve(t, router)
	site.keepCookies(t)
	for visits := range 2 {
		require.Equal(t, http.StatusNoContent, site.preflight(t).status)
		r := site.get(t, "Origin", shop, "Accept-Encoding", "gzip")
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, fmt.Sprint(visits+1), r.decoded(t))
		require.Equal(t, fmt.Sprint(1-visits), r.header.Get("X-RateLimit-Remaining"))
	}
	r := site.get(t, "Origin", shop, "Accept-Encoding", "gzip", "X-Request-Id", "three")
	requireRefusal(t, r)
	require.Equal(t, shop, r.header.Get(allowOrigin))
	require.Equal(t, "three", r.header.Get("X-Request-Id"))
}

func TestTogetherWithWebSockets(t *testing.T) {
	for name, chain := range map[string]func(limiter *ratelimit.Limiter) []gin.HandlerFunc{
		"in order": func(l *ratelimit.Limiter) []gin.HandlerFunc { return everything(l) },
		"gzip first, limiter last": func(l *ratelimit.Limiter) []gin.HandlerFunc {
			chain := everything(l)
			slices.Reverse(chain[len(chain)-2:])
			return chain
		},
	} {
		t.Run(name, func(t *testing.T) {
			limiter := newLimiter(1)
			site := serve(t, newRouter(t, chain(limiter), func(c *gin.Context) {
				conn, err := websocket.Accept(c.Writer, c.Request, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.CloseNow()
				kind, message, err := conn.Read(c.Request.Context())
				if err == nil {
					err = conn.Write(c.Request.Context(), kind, message)
				}
				if err != nil {
					t.Error(err)
				}
				// Settling after the connection was taken over must not write headers.
				if err := limiter.Settle(c, 0); err != nil {
					t.Error(err)
				}
				_ = conn.Close(websocket.StatusNormalClosure, "")
			}))
			dial := func() (conn *websocket.Conn, status int, header http.Header) {
				conn, response, err := websocket.Dial(t.Context(), site.url, &websocket.DialOptions{
					HTTPHeader: http.Header{"Accept-Encoding": {"gzip"}, "Origin": {site.url}},
				})
				require.NotNil(t, response, "%v", err)
				if err != nil {
					_ = response.Body.Close() // Of a connection there is no body.
				}
				return conn, response.StatusCode, response.Header
			}
			for range 2 { // It settles for nothing, so there is room for another.
				conn, status, header := dial()
				require.Equal(t, http.StatusSwitchingProtocols, status)
				require.Equal(t, "0", header.Get("X-RateLimit-Remaining"))
				require.NoError(t, conn.Write(t.Context(), websocket.MessageText, []byte("hello")))
				_, echo, err := conn.Read(t.Context())
				require.NoError(t, err)
				require.Equal(t, "hello", string(echo))
				_, _, err = conn.Read(t.Context())
				require.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(err))
			}
			_, err := limiter.Take(t.Context(), ratelimit.AddressKey("127.0.0.1"), 1)
			require.NoError(t, err)
			_, status, header := dial()
			require.Equal(t, http.StatusTooManyRequests, status)
			require.NotEmpty(t, header.Get("Retry-After"))
		})
	}
}
