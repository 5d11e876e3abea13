// Command observed is a server that shows all that can be seen of its rate limits: Prometheus metrics, OpenTelemetry
// metrics and spans, a page of numbers, log lines and an alert.
//
//	go -C _example/observed run .
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitotel"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	address := flag.String("addr", "localhost:8080", "where to listen")
	flag.Parse()
	if err := run(*address); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	const sampled = 0.01 // Spans of 1 request in 100, and metrics once a minute, so that the terminal stays legible.
	flush, err := startTelemetry(os.Stdout, sampled)
	if err != nil {
		return err
	}
	gin.SetMode(gin.ReleaseMode)
	router, err := newRouter(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `listening on http://%[1]s; try

  for i in $(seq 20); do curl -s -o /dev/null -w '%%{http_code} ' -X POST http://%[1]s/login; done; echo
  curl -s http://%[1]s/stats
  curl -s http://%[1]s/metrics | grep ratelimit_requests_total

OpenTelemetry metrics are printed once a minute and at the end (^C)
`, address)
	server := &http.Server{Addr: address, Handler: router, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopped <- server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return errors.Join(<-stopped, flush(context.WithoutCancel(ctx)))
}

// startTelemetry makes OpenTelemetry write to out, as its global providers. flush writes what is left.
func startTelemetry(out io.Writer, sampled float64) (flush func(context.Context) error, err error) {
	metrics, err := stdoutmetric.New(stdoutmetric.WithWriter(out))
	if err != nil {
		return nil, err
	}
	traces, err := stdouttrace.New(stdouttrace.WithWriter(out))
	if err != nil {
		return nil, err
	}
	meters := metric.NewMeterProvider(
		metric.WithReader(metric.NewPeriodicReader(metrics, metric.WithInterval(time.Minute))),
		metric.WithExemplarFilter(exemplar.AlwaysOffFilter))
	tracers := trace.NewTracerProvider(trace.WithBatcher(traces), trace.WithSampler(trace.TraceIDRatioBased(sampled)))
	otel.SetMeterProvider(meters)
	otel.SetTracerProvider(tracers)
	return func(ctx context.Context) error {
		return errors.Join(tracers.Shutdown(ctx), meters.Shutdown(ctx))
	}, nil
}

func newRouter(logger *slog.Logger) (*gin.Engine, error) {
	router := gin.New()
	// By default Gin trusts X-Forwarded-For from every peer. No proxy is in front of this server, so no peer is trusted.
	if err := router.SetTrustedProxies(nil); err != nil {
		return nil, err
	}

	store, registry := ratelimit.NewMemoryStore(), prometheus.NewRegistry()
	prom, err := ratelimitprom.Register(registry, ratelimitprom.WithMemoryStore("main", store))
	if err != nil {
		return nil, err
	}
	tel, err := ratelimitotel.New(ratelimitotel.WithMemoryStore("main", store))
	if err != nil {
		return nil, err
	}
	stats := ratelimit.NewStats()
	stats.Alert(0.05, func(a ratelimit.Alert) {
		logger.Warn("refusal ratio", "name", a.Name, "above", a.Firing, "ratio", a.Ratio, "of", a.Requests)
	})
	logged := ratelimit.LogObserver(logger)
	watched := func(name string, opts ...ratelimit.Option) gin.HandlerFunc {
		return ratelimit.New(append(opts,
			ratelimit.WithName(name),
			ratelimit.WithStore(store),
			ratelimit.WithObserver(prom.Observe),
			ratelimit.WithObserver(tel.Observe),
			ratelimit.WithObserver(stats.Observe),
			ratelimit.WithObserver(logged),
		)...)
	}

	// What watches is not limited. In production it is not public either.
	router.GET("/metrics", gin.WrapH(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	router.GET("/stats", func(c *gin.Context) { c.JSON(http.StatusOK, stats.Snapshot()) })

	router.Use(otelgin.Middleware("observed")) // Before the limiters, so that they find its span.
	router.Use(watched("global", ratelimit.WithRefillRate(ratelimit.PerSecond(50)), ratelimit.WithCapacity(200)))
	hello := func(c *gin.Context) { c.String(http.StatusOK, "hello\n") }
	router.GET("/", hello)
	router.POST("/login", watched("login", ratelimit.WithRefillRate(ratelimit.PerMinute(5))), hello)
	return router, nil
}
