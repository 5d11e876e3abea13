package ratelimitprom_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

const acceptProtobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

// scrape returns what a server exports, as Prometheus would read it.
func scrape(t *testing.T, url, accept string) map[string]*dto.MetricFamily {
	t.Helper()
	answer := get(t, url+"/metrics", "Accept", accept)
	if answer.status != http.StatusOK {
		t.Fatalf("%d: %s", answer.status, answer.body)
	}
	decoder, families := expfmt.NewDecoder(bytes.NewReader(answer.body), expfmt.ResponseFormat(answer.header)), map[string]*dto.MetricFamily{}
	for {
		var family dto.MetricFamily
		err := decoder.Decode(&family)
		if errors.Is(err, io.EOF) {
			return families
		}
		if err != nil {
			t.Fatal(err)
		}
		families[family.GetName()] = &family
	}
}

// fromZero are the families whose series begin at 0.
var fromZero = []string{"ratelimit_requests_total", "ratelimit_store_errors_total"}

// values returns a family's series, each as "label=value …: value", or a histogram's count. It leaves out series of fromZero
// that are 0, which TestSeriesBeginAtZero tests.
func values(family *dto.MetricFamily) []string {
	var lines []string
	for _, m := range family.GetMetric() {
		if slices.Contains(fromZero, family.GetName()) && m.GetCounter().GetValue() == 0 {
			continue
		}
		var line strings.Builder
		for _, label := range m.GetLabel() {
			fmt.Fprintf(&line, "%s=%s ", label.GetName(), label.GetValue())
		}
		switch {
		case m.Counter != nil:
			fmt.Fprint(&line, m.Counter.GetValue())
		case m.Gauge != nil:
			fmt.Fprint(&line, m.Gauge.GetValue())
		case m.Histogram != nil:
			fmt.Fprint(&line, m.Histogram.GetSampleCount())
		}
		lines = append(lines, line.String())
	}
	slices.Sort(lines)
	return lines
}

func expectValues(t *testing.T, family *dto.MetricFamily, want ...string) {
	t.Helper()
	if got := values(family); !slices.Equal(got, want) {
		t.Errorf("%s:\n\t%s\nwant\n\t%s", family.GetName(), strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// visit makes each kind of event happen.
func visit(t *testing.T, url string) {
	t.Helper()
	for range 7 {
		get(t, url+"/login/ann@example.org")
		get(t, url+"/dry")
	}
	for i := range 8 {
		get(t, url+"/full", "Account", fmt.Sprint("account ", i))
	}
	get(t, url+"/broken")
	get(t, url+"/broken")
	get(t, url+"/held")
}

func TestScrape(t *testing.T) {
	server := newServer(t)
	visit(t, server.URL)
	for name, accept := range map[string]string{
		"text":     "text/plain;version=0.0.4",
		"protobuf": acceptProtobuf,
	} {
		t.Run(name, func(t *testing.T) {
			families := scrape(t, server.URL, accept)
			want := []string{
				"ratelimit_give_back_errors_total", "ratelimit_gone_total", "ratelimit_lease_calls_total", "ratelimit_lease_tokens_total",
				"ratelimit_requests_total", "ratelimit_store_degraded", "ratelimit_store_duration_seconds", "ratelimit_store_errors_total",
				"ratelimit_store_keys", "ratelimit_wait_duration_seconds", "ratelimit_waiting_requests",
			}
			if got := slices.Sorted(maps.Keys(families)); !slices.Equal(got, want) {
				t.Errorf("families %v, want %v", got, want)
			}
			expectValues(t, families["ratelimit_requests_total"],
				"decision=allowed policy=dry reason=allowed route=/dry source=memory 5",
				"decision=allowed policy=full reason=allowed route=/full source=memory 1",
				"decision=allowed policy=full reason=allowed route=/full source=overflow 5",
				"decision=allowed policy=held reason=allowed route=/held source=memory 1",
				"decision=allowed policy=login reason=allowed route=/login/:account source=memory 5",
				"decision=failed policy=broken reason=store route=/broken source=unknown 2",
				"decision=refused policy=full reason=overflow route=/full source=overflow 2",
				"decision=refused policy=login reason=refused route=/login/:account source=memory 2",
				"decision=shadow policy=dry reason=shadow route=/dry source=memory 2",
			)
			expectValues(t, families["ratelimit_store_duration_seconds"],
				"policy=broken source=unknown 2",
				"policy=dry source=memory 7",
				"policy=full source=memory 1",
				"policy=full source=overflow 7",
				"policy=held source=memory 1",
				"policy=login source=memory 7",
			)
			expectValues(t, families["ratelimit_store_errors_total"], "kind=timeout policy=broken 2")
			expectValues(t, families["ratelimit_store_degraded"], "store=main 1")
			expectValues(t, families["ratelimit_store_keys"], "store=full 1")
			expectValues(t, families["ratelimit_wait_duration_seconds"], "policy=held 1")
			expectValues(t, families["ratelimit_waiting_requests"],
				"policy=broken 0", "policy=dry 0", "policy=full 0", "policy=held 2", "policy=login 0")
		})
	}
}

// Classic buckets are in every format, native ones in protobuf, and both count the same requests.
func TestScrapeHistograms(t *testing.T) {
	server := newServer(t)
	visit(t, server.URL)
	for _, name := range []string{"ratelimit_store_duration_seconds", "ratelimit_wait_duration_seconds"} {
		text := scrape(t, server.URL, "text/plain")[name].Metric[0].Histogram
		proto := scrape(t, server.URL, acceptProtobuf)[name].Metric[0].Histogram
		if len(text.Bucket) < 10 || len(proto.Bucket) < 10 {
			t.Errorf("%s: %d classic buckets in text, %d in protobuf", name, len(text.Bucket), len(proto.Bucket))
		}
		if proto.GetSchema() != 3 || len(proto.PositiveSpan) == 0 {
			t.Errorf("%s: schema %d, %d spans, want native buckets of schema 3", name, proto.GetSchema(), len(proto.PositiveSpan))
		}
		native, last := proto.GetZeroCount(), int64(0)
		for _, delta := range proto.PositiveDelta {
			last += delta
			native += uint64(last)
		}
		if native != proto.GetSampleCount() || native != text.GetSampleCount() {
			t.Errorf("%s: %d in native buckets, count is %d and %d", name, native, proto.GetSampleCount(), text.GetSampleCount())
		}
		if sum := text.GetSampleSum(); sum <= 0 || sum > 60 {
			t.Errorf("%s: sum %v s", name, sum)
		}
	}
}

// A key is in no label: not the client's address, not the path, not the account.
func TestScrapeHoldsNoKey(t *testing.T) {
	server := newServer(t)
	visit(t, server.URL)
	text := get(t, server.URL+"/metrics").body
	for _, secret := range []string{"127.0.0.1", "::1", "ann@", "account "} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q is in the metrics", secret)
		}
	}
}

func TestPromtoolAcceptsMetrics(t *testing.T) {
	promtool, server := tool(t, "promtool"), newServer(t)
	visit(t, server.URL)
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = bytes.NewReader(get(t, server.URL+"/metrics").body)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
