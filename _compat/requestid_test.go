package compat

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"testing"

	"github.com/gin-contrib/requestid"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

type requestIDKey struct{}

// requestIDs is a slog.Handler that adds the id of the request that a line is about.
type requestIDs struct{ slog.Handler }

func (h requestIDs) Handle(ctx context.Context, record slog.Record) error {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		record.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, record)
}

func newRequestID() gin.HandlerFunc {
	return requestid.New(requestid.WithHandler(func(c *gin.Context, id string) {
		c.Request = c.Request.WithContext(context.WithValue(c.Request.Context(), requestIDKey{}, id))
	}))
}

func TestRequestID(t *testing.T) {
	eachOrder(t, newRequestID, func(t *testing.T, o order) {
		var log bytes.Buffer
		logger := slog.New(requestIDs{slog.NewTextHandler(&log, nil)})
		limiter := newLimiter(1, ratelimit.WithObserver(ratelimit.LogObserver(logger)))
		site := serve(t, newRouter(t, o.with(limiter), hello))

		r := site.get(t, "X-Request-Id", "one")
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, "one", r.header.Get("X-Request-ID"))
		require.Empty(t, log.String())

		r = site.get(t, "X-Request-Id", "two")
		requireRefusal(t, r)
		require.Contains(t, log.String(), "rate limit refused")
		if o.before {
			require.Equal(t, "two", r.header.Get("X-Request-ID"))
			require.Contains(t, log.String(), "request_id=two")
		} else {
			require.NotContains(t, r.header, "X-Request-Id", "a refusal has no id yet")
			require.NotContains(t, log.String(), "request_id")
		}
	})
}
