package compat

import (
	"context"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/gin-ratelimit/ratelimit"
)

func TestOtelgin(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	newOtelgin := func() gin.HandlerFunc {
		recorder.Reset()
		return otelgin.Middleware("shop", otelgin.WithTracerProvider(provider))
	}
	eachOrder(t, newOtelgin, func(t *testing.T, o order) {
		var observed []trace.TraceID
		limiter := newLimiter(1, ratelimit.WithObserver(func(ctx context.Context, _ ratelimit.Event) {
			observed = append(observed, trace.SpanContextFromContext(ctx).TraceID())
		}))
		site := serve(t, newRouter(t, o.with(limiter), hello))
		require.Equal(t, http.StatusOK, site.get(t).status)
		requireRefusal(t, site.get(t))

		statuses := []int64{http.StatusOK}
		if o.before {
			statuses = append(statuses, http.StatusTooManyRequests)
		}
		spans := recorder.Ended()
		require.Len(t, spans, len(statuses))
		for i, span := range spans {
			require.Contains(t, span.Attributes(), attribute.Int64("http.response.status_code", statuses[i]))
			require.Contains(t, span.Attributes(), attribute.String("http.route", "/"))
			require.Equal(t, codes.Unset, span.Status().Code, "a refusal is not the server's error")
			if o.before {
				require.Equal(t, span.SpanContext().TraceID(), observed[i])
			}
		}
	})
}
