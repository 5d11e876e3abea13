package main

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

// pageOf runs the command, and returns what -html writes.
func pageOf(t *testing.T, args ...string) string {
	t.Helper()
	name := t.TempDir() + "/report.html"
	require.NoError(t, run(io.Discard, append([]string{"-html", name}, args...)))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// The page loads nothing and runs nothing, and its policy would not let it.
func TestPageIsOneFile(t *testing.T) {
	hostile := get("<script>alert(1)</script>", `/"><img src=x onerror=alert(1)>/a`, 0)
	hostile.Agent = "<b>"
	log := writeLog(t, "combined", append(traffic.Handful(leapDay), hostile, get("192.0.2.9", "/{{.}}\u202e", 1)))
	older, newer := writeDocument(t, "default: 1/s burst 2"), writeDocument(t, "default: 1/s")
	for _, args := range [][]string{{log}, {"-limit", "1/s burst 2", log}, {"-limit", "1/s", "-limit", "3/h", log}, {"-config", newer, "-against", older, log}} {
		text := pageOf(t, args...)
		_, rest, _ := strings.Cut(text, "<style>")
		style, body, found := strings.Cut(rest, "</style>")
		require.True(t, found)
		hash := sha256.Sum256([]byte(style))
		policy := `<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; style-src &#39;sha256-` +
			strings.ReplaceAll(base64.StdEncoding.EncodeToString(hash[:]), "+", "&#43;") + `&#39;; base-uri &#39;none&#39;; form-action &#39;none&#39;">`
		assert.Contains(t, text, policy)
		assert.Less(t, strings.Index(text, policy), strings.Index(text, "<style>"))
		tags := strings.Join(regexp.MustCompile(`<[^>]*>`).FindAllString(body, -1), "\n")
		for _, loads := range []string{"<script", "<img", "<link", "<iframe", " src=", " href=", " style=", " on"} {
			assert.NotContains(t, tags, loads)
		}
		for _, loads := range []string{"url(", "@import", "@font-face"} {
			assert.NotContains(t, style, loads)
		}
		assert.Contains(t, body, "&lt;script&gt;alert(1)&lt;/script&gt;")
		assert.NotContains(t, body, "\u202e")
	}
}

// Whatever the log is, the charts have numbers.
func TestChartsAreDrawn(t *testing.T) {
	free := get("192.0.2.1", "/", 0)
	free.Cost = 0
	late := get("192.0.2.1", "/", 0)
	late.Begin = late.Begin.AddDate(30, 0, 0)
	for name, test := range map[string]struct {
		format   string
		requests []traffic.Request
		charts   int
	}{
		"nothing":      {"csv", nil, 0},
		"one request":  {"common", []traffic.Request{get("192.0.2.1", "/", 0)}, 3},
		"no cost":      {"csv", []traffic.Request{free, free}, 3},
		"thirty years": {"common", []traffic.Request{get("192.0.2.1", "/", 0), late}, 3},
		"a day":        {"csv", traffic.Day(1, leapDay, 20), 3},
	} {
		t.Run(name, func(t *testing.T) {
			fields := "client=ip,time=begin,cost=cost"
			text := pageOf(t, "-fields", fields, writeLog(t, test.format, test.requests))
			assert.Equal(t, test.charts, strings.Count(text, "<svg"))
			for _, wrong := range []string{"NaN", "Inf", `width="-`, `height="-`, "%!"} {
				assert.NotContains(t, text, wrong)
			}
			assert.Less(t, len(text), 200_000)
		})
	}
}

func TestPageSaysWhatTheTerminalSays(t *testing.T) {
	log := writeLog(t, "common", traffic.Handful(leapDay))
	text := pageOf(t, "-limit", "10/s burst 3", log)
	assert.Contains(t, text, "“10/s burst 3” would have refused 0 to 2 of 16 requests (up to 12.5 %), of 0 to 1 of 4 clients (up to 25 %).")
	assert.Contains(t, text, "The first refusal is at 2024-02-29 23:59:30 UTC, the last at 2024-02-29 23:59:30 UTC, and most in one minute are 2 at 2024-02-29 23:59:00 UTC.")
	assert.Contains(t, text, "<title>2 clients: needed burst 1</title>")
	assert.Contains(t, text, "<title>Feb 29 23:59:30: 7 admitted, 2 refused</title>")
	assert.Contains(t, text, "<title>1/s burst 8 suffices for all clients</title>")
	assert.Contains(t, text, "The log spans 1m1s, less than a week")
	assert.Contains(t, text, "<li>"+log+": common</li>")
	compared := pageOf(t, "-config", writeDocument(t, "default: 1/s burst 3"), "-against", writeDocument(t, "default: 1/s burst 2"), log)
	assert.Contains(t, compared, "newly refused: requests 0, clients 0; newly admitted: requests 2, clients 1.")
	assert.Contains(t, compared, "<tr><td>/</td><td>0</td><td>2</td></tr>")
}

func TestNumbersAndDurationsAreShort(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 12_345_678: "12,345,678"} {
		assert.Equal(t, want, number(n))
	}
	for n, want := range map[int64]string{0: "0", 9999: "9999", 10_000: "10k", 1 << 20: "1.05M", 1 << 52: "4.5P"} {
		assert.Equal(t, want, brief(n))
	}
	for d, want := range map[time.Duration]string{time.Second: "1s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", 2 * time.Hour: "2h"} {
		assert.Equal(t, want, short(d))
	}
}
